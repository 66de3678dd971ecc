"""The Model Documentation Form, with a view for each recipient: AI Office, national authorities, downstream providers.

Code of Practice, Transparency chapter, measure 1.1; Annexes XI and XII of Regulation (EU) 2024/1689.

Who gets an answer follows the annex that asks for it: Annex XI is for the authorities, Annex XII for downstream
providers. Where the form asks the authorities for different precision, there is an entry for each. How the model is
distributed it asks the authorities and downstream providers apart; one answer serves both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanse.release.attribution import flags
from hanse.release.compute import meter
from hanse.release.ledger import Ledger
from hanse.release.papers import answers, training
from hanse.release.papers.categories import sources_of, use
from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table
from hanse.release.papers.render import backing
from hanse.release.papers.summary import dependency, language_name, provider_contact
from hanse.release.papers.summary_data import (
    bytes_cell,
    conversations_cell,
    counted,
    documents_cell,
    of_source,
    tokens_cell,
)
from hanse.release.sovereignty.components import is_free

NAME = "model-documentation-form"
AIO, NCA, DP = "AIO", "NCA", "DP"
AUTHORITIES = (AIO, NCA)
#: Bands of the form for the number of parameters: the largest of each.
SIZES = (
    (500e6, "1 to 500 million"), (5e9, "500 million to 5 billion"), (15e9, "5 to 15 billion"),
    (50e9, "15 to 50 billion"), (100e9, "50 to 100 billion"), (500e9, "100 to 500 billion"),
    (1e12, "500 billion to 1 trillion"),
)  # fmt: skip
_METHOD = (
    "operations of the architecture, counted from recorded tokens and the model's sizes, held against the hardware "
    "method; see the paper on compute and energy"
)
_INFERENCE = (
    "operations of the architecture for the task that is named with the figure: one forward pass of each token, with a "
    "cache; measured on no hardware"
)
_PROVENANCE = {
    "crawl": "Web crawling", "private": "Private non-public datasets obtained from third parties",
    "licensed": "Private datasets licensed by rightsholders", "user": "User data",
    "public-dataset": "Publicly available datasets", "synthetic": "Synthetic data by AI models",
    "other": "Data collected through other means",
}  # fmt: skip


def paper(ledger: Ledger) -> Paper:
    """The form for a release; `render.for_reader` gives one recipient's view."""
    return Paper(
        NAME,
        f"Model Documentation Form: {ledger.title or ledger.name}, version {ledger.version}",
        "After the form of the Transparency chapter of the Code of Practice for general-purpose AI models. Answers "
        "marked AIO are for the AI Office, NCA for national competent authorities, DP for downstream providers; the "
        "others are for all.",
        (
            Section("1", "General information", tuple(_general(ledger))),
            Section("2", "Model properties", tuple(_properties(ledger))),
            Section("3", "Methods of distribution and licences", tuple(_distribution(ledger))),
            Section("4", "Use", tuple(_use(ledger))),
            Section("5", "Training process", tuple(_training(ledger))),
            Section("6", "Information on the data used for training, testing and validation", tuple(_data(ledger))),
            Section("7", "Computational resources (during training)", tuple(_compute(ledger))),
            Section("8", "Energy consumption (during training and inference)", tuple(_energy(ledger))),
        ),
    )


def parameter_band(parameters: int) -> str:
    """The form's band of a number of parameters."""
    return next((name for bound, name in SIZES if parameters <= bound), "more than 1 trillion")


def architecture(config: Mapping[str, Any]) -> str:
    """The architecture in some twenty words, as the model's configuration has it; empty where it has no family."""
    if not config.get("model_type"):
        return ""
    parts = [f"{config['model_type']}: decoder-only transformer"]
    for key, words in (
        ("num_hidden_layers", "{} layers"),
        ("hidden_size", "hidden width {}"),
        ("num_attention_heads", "{} attention heads"),
    ):
        if config.get(key):
            parts.append(words.format(config[key]))
    layers, dense = config.get("num_hidden_layers"), config.get("first_k_dense_replace")
    if config.get("n_routed_experts") and isinstance(layers, int) and isinstance(dense, int) and dense < layers:
        parts.append(
            f"{layers - dense} layers with {config['n_routed_experts']} routed experts, "
            f"{config.get('num_experts_per_tok')} at work on a token"
        )
    if config.get("kv_lora_rank"):
        parts.append("latent attention")
    return ", ".join(parts)


def _general(ledger: Ledger) -> list[Entry | Table | str]:
    place = f"{ledger.ref} step.json"
    authenticity = Cell(
        ledger.model.digest,
        f"{ledger.model.ref} SHA256SUMS",
        f"weights, configuration and tokenizer: sha256:{ledger.model.digest}; signed (OpenSSF Model Signing) by the "
        f"key with the fingerprint {ledger.key_fingerprint}",
    )
    return [
        Entry("", "Date of this document", Cell(ledger.made[:10], f"{place} ancestors finishedOn")),
        Entry("", "Version of this document", Cell(ledger.version, place)),
        answers.entry(ledger, "provider.name", "", "Legal name of the model provider"),
        Entry("", "Contact", provider_contact(ledger), True, "provider.contact"),
        Entry("", "Model name", Cell(ledger.ref, place, f"{ledger.title or ledger.name} {ledger.version}"), True),
        Entry("", "Model authenticity", authenticity, True, readers=AUTHORITIES),
        answers.entry(ledger, "model.release_date", "", "Release date"),
        answers.entry(ledger, "model.union_market_date", "", "Union market release date"),
        Entry("", "Model dependencies", dependency(ledger), True, "model.base_model"),
    ]


def _properties(ledger: Ledger) -> list[Entry | Table | str]:
    config = f"{ledger.model.ref} config.json"
    weights = f"{ledger.model.ref} model.safetensors"
    text = architecture(ledger.config)
    context, vocabulary = ledger.config.get("max_position_embeddings"), ledger.config.get("vocab_size")
    longest = (
        f", at most {context:,} tokens together with the output"
        if isinstance(context, int)
        else ", maximum size not recorded"
    )
    size = Cell("text", f"{config} max_position_embeddings", f"text{longest}")
    active = ledger.active_parameters
    return [
        Entry("", "Model architecture", Cell(text, config) if text else Cell(None), True),
        Entry("", "Design specifications", _design(ledger), readers=AUTHORITIES),
        Entry("", "Input modalities and maximum size", size, True),
        Entry("", "Output modalities and maximum size", size, True),
        Entry("", "Vocabulary, in tokens", Cell(vocabulary, f"{config} vocab_size") if vocabulary else Cell(None)),
        Entry("", "Total model size: parameters", Cell(ledger.parameters, weights), True, readers=(AIO,)),
        Entry("", "Parameters at work on each token", Cell(active, weights) if active is not None else Cell(None),
              readers=(AIO,)),
        Entry("", "Total model size: band", Cell(parameter_band(ledger.parameters), weights), True, readers=(NCA, DP)),
    ]  # fmt: skip


def _design(ledger: Ledger) -> Cell:
    """The settings of the configuration that shape the network."""
    keys = [key for key in sorted(ledger.config) if isinstance(ledger.config[key], int | float | str)]
    shown = [f"{key} {ledger.config[key]}" for key in keys if not isinstance(ledger.config[key], bool)]
    if not shown:
        return Cell(None)
    return Cell({key: ledger.config[key] for key in keys}, f"{ledger.model.ref} config.json", ", ".join(shown))


def _distribution(ledger: Ledger) -> list[Entry | Table | str]:
    place = f"{ledger.ref} step.json release.licence"
    return [
        answers.entry(ledger, "model.channels", "", "Distribution channels, with the level of access"),
        Entry("", "Licence", Cell(ledger.licence, place) if ledger.licence else Cell(None), True),
        Entry("", "Category of the licence", _category(ledger, place)),
        answers.entry(ledger, "model.licence_url", "", "Link to the licence"),
        answers.entry(ledger, "model.further_assets", "", "Further assets made available, and under which licence"),
    ]


def _category(ledger: Ledger, place: str) -> Cell:
    """Free and open-source, or what it forbids; empty for a licence that is not known here."""
    free = is_free(ledger.licence)
    if free is None:
        return Cell(None)
    text = "free and open-source: anybody may access, use, change and pass it on"
    return Cell(text if free else f"restricted: {', '.join(flags(ledger.licence))}", place)


def _use(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        answers.entry(ledger, "model.acceptable_use_policy", "", "Acceptable use policy"),
        answers.entry(ledger, "model.intended_uses", "", "Intended uses"),
        answers.entry(ledger, "model.system_types", "", "Type and nature of AI systems it can be integrated into"),
        answers.entry(ledger, "model.integration", "", "Technical means for model integration"),
        answers.entry(ledger, "model.hardware", "", "Required hardware", readers=(DP,)),
        answers.entry(ledger, "model.software", "", "Required software", readers=(DP,)),
    ]


def _training(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        Entry("", "Design specifications of the training process", training.stages(ledger), True, readers=AUTHORITIES),
        training.table(ledger, AUTHORITIES),
        answers.entry(
            ledger,
            "model.design_rationale",
            "",
            "Rationale of key design choices and decisions in training",
            readers=AUTHORITIES,
        ),
    ]


def _data(ledger: Ledger) -> list[Entry | Table | str]:
    everything = counted(ledger)
    kinds = backing(source.cell("kind") for source in ledger.sources)
    documents, talk, tokens = (
        documents_cell(ledger, everything),
        conversations_cell(ledger, everything),
        tokens_cell(ledger),
    )
    return [
        Entry("", "Type or modality of data", Cell("text", kinds) if kinds else Cell(None), True),
        _provenance(ledger),
        answers.entry(ledger, "data.content_types", "", "Kinds of content"),
        answers.entry(ledger, "data.selection", "", "How data was obtained and selected", readers=AUTHORITIES),
        Entry("", "Number of data points: documents", documents, readers=(AIO,)),
        Entry("", "Number of data points: conversations", talk, readers=(AIO,)),
        Entry("", "Number of data points: tokens of documents", tokens, readers=(AIO,)),
        Entry("", "Number of data points: documents and conversations, order of magnitude",
              _magnitude([documents, talk]), readers=(NCA,)),
        Entry("", "Number of data points: tokens of documents, order of magnitude", _magnitude([tokens]),
              readers=(NCA,)),
        Entry("", "Bytes of text", bytes_cell(everything), readers=AUTHORITIES),
        Entry("", "Scope and main characteristics: languages by bytes", _languages(ledger), readers=AUTHORITIES),
        answers.entry(ledger, "data.other_characteristics", "", "Other characteristics", readers=AUTHORITIES),
        *training.curation(ledger),
        training.held_out(ledger, AUTHORITIES),
        answers.entry(ledger, "data.unsuitable_sources", "", "Measures against unsuitable data sources",
                      readers=AUTHORITIES),
        answers.entry(ledger, "data.bias_measures", "", "Measures against identifiable bias", readers=AUTHORITIES),
    ]  # fmt: skip


def _provenance(ledger: Ledger) -> Table:
    rows = []
    texts = counted(ledger, "source")
    for wanted, title in _PROVENANCE.items():
        used = use(ledger, wanted)
        own = [row for source in sources_of(ledger, wanted) for row in of_source(texts, source)]
        size = bytes_cell(own) if own else Cell(0, used.source) if used.value is False else Cell(None)
        rows.append((Cell(title), used, size))
    return Table(("provenance", "used", "bytes"), tuple(rows), title="Data provenance")


def _languages(ledger: Ledger) -> Cell:
    rows = [row for row in counted(ledger, "language") if row.values["language"]]
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.values["language"]] = sizes.get(row.values["language"], 0) + row.bytes
    if not sizes:
        return Cell(None)
    ordered = sorted(sizes, key=lambda code: (-sizes[code], code))
    files = {row.artifact.ref: "train.jsonl" if row.is_talk else "documents.parquet" for row in rows}
    place = "; ".join(f"{ref} {file}: select language, sum(bytes) group by language" for ref, file in files.items())
    return Cell(sizes, place, ", ".join(f"{language_name(code)} {sizes[code]:,}" for code in ordered))


def _magnitude(cells: Sequence[Cell]) -> Cell:
    if not all(each.is_recorded for each in cells):
        return Cell(None)
    power = meter.power(sum(each.value for each in cells))
    return Cell(power, backing(cells), f"order of magnitude {power}")


def _compute(ledger: Ledger) -> list[Entry | Table | str]:
    time, flop = meter.training_time(ledger), meter.training_flop(ledger)
    exact, rough = (_flop(each) for each in (meter.two_figures(flop), meter.order_of_magnitude(flop)))
    return [
        Entry("", "Training time", time, True, readers=(AIO,)),
        Entry("", "Training time: band", training.time_band(time), True, readers=(NCA,)),
        Entry("", "Amount of computation for training", exact, True, readers=(AIO,)),
        Entry("", "Amount of computation for training: order of magnitude", rough, True, readers=(NCA,)),
        Entry("", "Measurement method", Cell("operations of the architecture", flop.source, _METHOD) if flop.is_recorded
              else Cell(None), readers=AUTHORITIES),
    ]  # fmt: skip


def _flop(number: Cell) -> Cell:
    return Cell(number.value, number.source, f"{number.value} FLOP") if number.is_recorded else number


def _energy(ledger: Ledger) -> list[Entry | Table | str]:
    inference = meter.inference_flop(ledger)
    return [
        Entry("", "Energy used for training", meter.energy(ledger), True, "compute.power_w", AUTHORITIES),
        Entry("", "Measurement method of the energy", meter.energy_method(ledger), readers=AUTHORITIES),
        Entry("", "Benchmarked amount of computation for inference", inference, readers=AUTHORITIES),
        Entry("", "Measurement method of inference", Cell(_INFERENCE, inference.source) if inference.is_recorded
              else Cell(None), readers=AUTHORITIES),
    ]  # fmt: skip
