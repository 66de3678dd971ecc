"""The sections of a recipe: their keys, what fits together, and what each means where a name cannot say it."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from hanse.languages import EU24, LANGUAGES
from hanse.recipe.suggestion import suggestion
from hanse.train.ramp import PARTS, Ramp

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Temperature = Annotated[float, Field(ge=1.0, le=100.0)]  # a language's share grows with its size ^ (1 / temperature)
Weight = Annotated[float, Field(ge=0.0, le=1e6)]


class Section(BaseModel):
    """A part of the recipe: frozen, and closed against unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Section):
    """One body of text, with the rights that it came with.

    `path` is a file, a folder or a glob, relative to the recipe's folder; for kind hub, `owner/dataset`. `licence`
    (SPDX) stands for documents that carry none themselves; a document without any is quarantined. `obtained` takes the
    categories of the EU's summary of training content, each with what the summary asks for.
    """

    name: Name
    kind: Literal["atlas", "jsonl", "parquet", "text", "html", "warc", "tei", "hub", "conversations"]
    path: str = ""
    revision: str = ""  # of a hub dataset: a commit
    files: str = ""  # of a hub dataset: which of its files, a glob
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"  # of the main text of web pages
    licence: str | None = None
    licence_basis: Literal[
        "stated", "detected", "contract", "public-domain", "generated", "tdm-art-4", "tdm-art-3", "unknown"
    ] = "unknown"
    jurisdiction: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""  # ISO 3166-1 alpha-2, or EU
    rights_holder: str = ""
    obtained: Literal["public-dataset", "licensed", "crawl", "user", "synthetic", "other", "unknown"] = "unknown"
    contract: str = ""  # licensed: its identifier
    contract_start: datetime.date | None = None
    contract_expiry: datetime.date | None = None
    crawler: str = ""  # crawl: its name, as it called itself to servers
    model: str = ""  # synthetic: what wrote the text
    period: str = ""
    url: str = ""
    reservation: Literal["none", "reserved", "unknown"] = "unknown"
    heldout_share: Share = 0.05  # of conversations; the other kinds are split by [curate] validation_share

    @model_validator(mode="after")
    def _path_fits_kind(self) -> Source:
        if self.kind == "atlas" and self.path:
            raise ValueError("path: the atlas is embedded and takes no path")
        if self.kind != "atlas" and not self.path:
            what = "the dataset, as owner/name" if self.kind == "hub" else "the file, folder or glob to read"
            raise ValueError(f"path: missing; name {what}")
        if self.kind != "hub":
            for key in ("revision", "files"):
                if getattr(self, key):
                    raise ValueError(f"{key}: belongs to kind hub")
            return self
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", self.path, re.ASCII):
            raise ValueError(f"path: '{self.path}' is no dataset of the hub; write owner/name")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(
                "revision: a hub dataset needs the commit, 40 hexadecimal digits in small letters; a branch or tag can "
                "mean another text tomorrow"
            )
        return self

    @model_validator(mode="after")
    def _obtained_is_explained(self) -> Source:
        belongs = {
            "licensed": ("contract", "contract_start", "contract_expiry"),
            "crawl": ("crawler",),
            "synthetic": ("model",),
        }
        for obtained, keys in belongs.items():
            for key in keys:
                if getattr(self, key) and self.obtained != obtained:
                    raise ValueError(f'{key}: belongs to obtained = "{obtained}", not "{self.obtained}"')
        needs = {"licensed": ("contract",), "crawl": ("crawler", "period"), "synthetic": ("model",)}
        for key in () if self.kind == "atlas" else needs.get(self.obtained, ()):  # rules wrote the atlas, no model
            if not getattr(self, key):
                raise ValueError(f'{key}: missing; obtained = "{self.obtained}" has to say it')
        if self.licence_basis == "contract" and self.obtained not in ("licensed", "unknown"):
            raise ValueError(f'licence_basis: "contract" does not go with obtained = "{self.obtained}"')
        if self.contract_start and self.contract_expiry and self.contract_expiry < self.contract_start:
            raise ValueError("contract_expiry: before contract_start")
        return self


HOW = ("checkpoint_seconds", "compile", "milestones")  # keys of training that change no weight, so not what is made
CURATE_PATHS = ("policy", "site_files", "pii_key", "quality_model", "contamination")  # keys that name files


class Curate(Section):
    """Which documents stay. Everything read is annotated; this policy selects."""

    licences: tuple[str, ...] = (
        "CC0-1.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-4.0", "CC-BY-SA-3.0", "EUPL-1.2", "MPL-2.0", "MIT",
        "Apache-2.0", "BSD-3-Clause", "Unicode-3.0", "PDDL-1.0", "ODC-By-1.0", "Etalab-2.0",
    )  # fmt: skip
    min_characters: Positive = 20
    max_characters: Positive = 5_000_000
    identify_language: bool = True
    min_language_score: Share = 0.5
    max_quarantine_share: Share = 0.01
    validation_share: Share = 0.02
    on_unknown_reservation: Literal["keep", "drop"] = "keep"
    day: Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$")] = ""  # on which contracts and reservations are judged
    policy: str = ""  # a TOML file that says how evidence is weighed; the one that comes with Hanse if empty
    site_files: str = ""  # a folder of robots.txt and the like, by host and day
    pii: Literal["mask", "pseudonym", "keep"] = "mask"
    pii_key: str = ""  # a file of at least 16 bytes that pseudonyms are derived from
    quality: bool = True
    quality_model: str = ""  # a trained classifier; none if empty
    min_quality: Share = 0.5
    near_duplicates: bool = True
    contamination: tuple[str, ...] = ()  # files of evaluation items
    on_contamination: Literal["drop", "keep"] = "drop"
    engine: Literal["local", "ray"] = "local"

    @model_validator(mode="after")
    def _bounds(self) -> Curate:
        if self.min_characters > self.max_characters:
            raise ValueError("min_characters: larger than max_characters")
        if not self.licences:
            raise ValueError("licences: the allow-list is empty, so no document could stay")
        if self.site_files and not self.day:
            raise ValueError("day: missing; site_files are judged as of a day, for example 2026-11-22")
        return self


class Tokenizer(Section):
    """Byte-level BPE with the Llama-3 split."""

    vocab_size: Annotated[int, Field(ge=320, le=1_000_000)] = 8192
    sample_bytes: Positive = 200_000_000
    language_temperature: Temperature = 2.0


class Model(BaseModel):
    """The architecture: `size` derives every shape, and any Hugging Face key of the family overrides one of them.

    With `start`, a model folder is continued instead: it brings its family, its shapes and its tokenizer.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    family: Literal["deepseek_v3", "apertus", "transformers"] | None = None  # deepseek_v3, or what `start` holds
    size: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?[MB]$")] = "3M"
    start: str | None = None  # a folder in the Hugging Face layout

    @model_validator(mode="before")
    @classmethod
    def _family_of_new(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("start") and data.get("family") is None:
            return {**data, "family": "deepseek_v3"}
        return data

    @model_validator(mode="after")
    def _keys_fit(self) -> Model:
        if self.start:
            for key in (*self.overrides, *(["size"] if "size" in self.model_fields_set else [])):
                raise ValueError(f"{key}: the model in start brings its own; leave this key out")
            return self
        if self.family == "transformers":
            raise ValueError('start: missing; family = "transformers" goes on from a model folder, so name it')
        known = _model_keys(str(self.family))
        for key in self.overrides:
            if key not in known:
                raise ValueError(_unknown_model_key(str(self.family), key, [*known, *Model.model_fields]))
        return self

    @model_serializer(mode="wrap")
    def _only_what_counts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the size that a start makes meaningless, and without an empty start."""
        data: dict[str, Any] = handler(self)
        data.pop("size" if self.start else "start", None)
        return data

    @property
    def overrides(self) -> dict[str, Any]:
        """The Hugging Face keys given beside the size."""
        return dict(self.__pydantic_extra__ or {})


class Training(Section):
    """How weights move, in pre-training and tuning alike. Units: tokens, shares of all steps, seconds."""

    sequence_length: Annotated[int, Field(ge=16, le=1_048_576)] = 256
    batch_tokens: Positive = 8192
    micro_batch_tokens: Positive | None = None
    optimizer: Literal["muon", "adamw", "ademamix"] = "muon"  # of the matrices
    learning_rate: Rate = 0.02  # of the matrices
    adam_learning_rate: Rate = 0.004  # of everything else, by AdamW
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_share: Share = 0.02
    decay_share: Share = 0.4
    gradient_clip: Rate = 1.0
    z_loss: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # keeps logits from drifting; 1e-4 is usual
    router_bias_rate: Annotated[float, Field(ge=0.0)] = 0.001
    checkpoint_seconds: Positive = 60
    milestones: Annotated[int, Field(ge=0, le=1000)] = 0  # checkpoints that are kept, spread evenly over the run
    compile: bool | Literal["auto"] = "auto"  # auto: if much is left to do and it turns out faster

    @model_validator(mode="after")
    def _batch_fits(self) -> Training:
        micro = self.micro_batch_tokens or self.sequence_length
        for key, value in (("batch_tokens", self.batch_tokens), ("micro_batch_tokens", micro)):
            if value % self.sequence_length:
                raise ValueError(f"{key}: {value} is not a multiple of sequence_length {self.sequence_length}")
        if self.batch_tokens % micro:
            raise ValueError(f"micro_batch_tokens: {micro} does not divide batch_tokens {self.batch_tokens}")
        if self.warmup_share + self.decay_share > 1:
            raise ValueError("warmup_share: warmup_share + decay_share is more than the whole run")
        return self


class Stage(Section):
    """A stretch of pre-training with a mixture of its own; what it leaves out is as [pretrain] says."""

    until: Annotated[float, Field(gt=0.0, le=1.0)]  # share of the budget
    language_temperature: Temperature | None = None
    source_weight: dict[Name, Weight] = {}


class Pretrain(Training):
    """Learning to predict the next token of running text."""

    budget_tokens: Positive = 20_000_000
    mtp_weight: Annotated[float, Field(ge=0.0)] = 0.0
    mtp_final_weight: Annotated[float, Field(ge=0.0)] | None = None  # while rates decay; mtp_weight where left out
    goldfish: Annotated[int, Field(ge=0, le=1000)] = 0  # one target in so many is hidden, against learning by heart
    batch_ramp_share: Share = 0.0  # of the budget, at a quarter of the batch and then at half
    language_temperature: Temperature = 1.0
    source_weight: dict[Name, Weight] = {}
    max_epochs: Rate | None = None
    stage: tuple[Stage, ...] = ()

    @model_validator(mode="after")
    def _budget_fits(self) -> Pretrain:
        if self.budget_tokens < self.batch_tokens:
            raise ValueError(f"budget_tokens: less than one batch of {self.batch_tokens} tokens")
        if self.goldfish == 1:
            raise ValueError("goldfish: 1 would hide every target; 3 or 4 is usual, 0 hides none")
        if self.batch_ramp_share and self.batch_tokens // self.sequence_length % max(PARTS):
            raise ValueError(f"batch_ramp_share: needs a batch_tokens that is a multiple of {max(PARTS)} sequences")
        ends = [stage.until for stage in self.stage]
        if ends != sorted(set(ends)) or ends[-1:] not in ([], [1.0]):
            raise ValueError(f"stage: 'until' has to rise from stage to stage and end at 1.0, not {ends}")
        return self

    @property
    def ramp(self) -> Ramp:
        """Which sequences belong to which step."""
        rows = self.batch_tokens // self.sequence_length
        total = self.budget_tokens // self.batch_tokens * rows
        return Ramp.of(rows, total_rows=total, share=self.batch_ramp_share)

    @property
    def steps(self) -> int:
        """Optimizer steps in the budget."""
        return self.ramp.steps

    @property
    def tokens(self) -> int:
        """Tokens that these steps read."""
        return self.ramp.at(self.steps - 1).stop * self.sequence_length


class Tune(Training):
    """Supervised fine-tuning on the conversations of one source; the loss is on the assistant's part only."""

    kind: Literal["sft"] = "sft"
    source: Name
    epochs: Annotated[float, Field(gt=0.0, le=1000.0)] = 3.0
    learning_rate: Rate = 0.01
    adam_learning_rate: Rate = 0.002
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    decay_share: Share = 0.5


class Evaluate(Section):
    """What is measured on text and questions that training never saw."""

    bits_per_byte: bool = True
    exact_answer: bool = True
    validation_bytes_per_language: Positive = 200_000
    items_per_language: Positive = 400
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000


class Release(Section):
    """How the model is published. `key` is a P-256 private key in PEM; it is made where none is."""

    licence: str = "Apache-2.0"
    title: str = ""
    contact: str = ""
    key: str = ""


class Recipe(Section):
    """The whole recipe."""

    name: Name
    version: Name = "1"
    description: str = ""
    languages: tuple[str, ...] = EU24
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    source: Annotated[tuple[Source, ...], Field(min_length=1)]
    curate: Curate = Curate()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Field(default_factory=Model)
    pretrain: Pretrain = Pretrain()
    tune: tuple[Tune, ...] = ()
    evaluate: Evaluate = Evaluate()
    release: Release = Release()

    @field_validator("version", mode="before")
    @classmethod
    def _version_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("languages", mode="before")
    @classmethod
    def _language_group(cls, value: object) -> object:
        return EU24 if value == "eu24" else value

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        for code in self.languages:
            if code not in LANGUAGES:
                raise ValueError(f"languages: '{code}' is not served.{suggestion(code, LANGUAGES)}")
        if not self.languages or len(set(self.languages)) != len(self.languages):
            raise ValueError("languages: name each language once, and at least one")
        names = [source.name for source in self.source]
        if len(set(names)) != len(names):
            raise ValueError("source: two sources have the same name")
        if all(source.kind == "conversations" for source in self.source):
            raise ValueError("source: no source of running text to pre-train on")
        if any(source.contract_start or source.contract_expiry for source in self.source) and not self.curate.day:
            raise ValueError("curate: day: missing; contracts are judged as of a day, for example 2026-11-22")
        weighed = set(self.pretrain.source_weight).union(*(stage.source_weight for stage in self.pretrain.stage))
        for name in sorted(weighed - set(names)):
            raise ValueError(f"pretrain: source_weight names '{name}', which is no source.{suggestion(name, names)}")
        if self.model.start and self.tokenizer != Tokenizer():
            raise ValueError("tokenizer: the model in [model] start brings its own; leave this section out")
        if self.model.start and self.pretrain.mtp_weight:
            raise ValueError("pretrain: mtp_weight: a model that is continued goes on without a multi-token block")
        if self.pretrain.mtp_weight and not self.model.overrides.get("num_nextn_predict_layers"):
            raise ValueError(
                "pretrain: mtp_weight trains a multi-token block; set [model] num_nextn_predict_layers = 1"
            )
        if self.model.overrides.get("num_nextn_predict_layers") and not self.pretrain.mtp_weight:
            raise ValueError(
                "model: num_nextn_predict_layers = 1 needs [pretrain] mtp_weight above 0, or it stays untrained"
            )
        for tune in self.tune:
            if tune.source not in names:
                raise ValueError(
                    f"tune: source '{tune.source}' is not among the sources.{suggestion(tune.source, names)}"
                )
            if self.source[names.index(tune.source)].kind not in ("atlas", "conversations"):
                raise ValueError(
                    f"tune: source '{tune.source}' holds running text; name one of kind conversations or atlas"
                )
        return self

    def text_sources(self) -> tuple[Source, ...]:
        """The sources that pre-training reads."""
        return tuple(source for source in self.source if source.kind != "conversations")


def _model_keys(family: str) -> tuple[str, ...]:
    from hanse.model.config import keys  # torch-free

    return keys(family)


def _unknown_model_key(family: str, key: str, known: list[str]) -> str:
    from hanse.model.config import key_of_another

    return key_of_another(family, key) or f"{key}: unknown key.{suggestion(key, known)}"
