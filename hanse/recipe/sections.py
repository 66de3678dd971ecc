"""The sections of a recipe: their keys, what fits together, and what each means where a name cannot say it."""

from __future__ import annotations

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
from hanse.recipe.base import Name, Positive, Rate, Section, Share, Temperature, Weight
from hanse.recipe.data import Curate, Source
from hanse.recipe.suggestion import suggestion
from hanse.train.ramp import PARTS, Ramp

# Keys of training that change no weight, so not what is made.
HOW = ("checkpoint_seconds", "compile", "keep_checkpoints", "milestones")


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
    learning_rate: Rate | None = None  # of the matrices; by the rule of hanse/train/rates.py where left out
    adam_learning_rate: Rate | None = None  # of everything else, by AdamW
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_share: Share = 0.02
    decay_share: Share = 0.4
    gradient_clip: Rate = 1.0
    z_loss: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # keeps logits from drifting; 1e-4 is usual
    router_bias_rate: Annotated[float, Field(ge=0.0)] = 0.001
    checkpoint_seconds: Positive = 60
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2  # of the newest; one may turn out damaged
    milestones: Annotated[int, Field(ge=0, le=1000)] = 0  # checkpoints that are kept too, spread evenly over the run
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
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    decay_share: Share = 0.5


class Evaluate(Section):
    """What is measured on text and questions that training never saw."""

    bits_per_byte: bool = True
    exact_answer: bool = True
    validation_bytes_per_language: Positive = 200_000
    items_per_language: Positive = 400
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000


class Memorisation(Section):
    """How much of its training text the model gives back; docs/memorisation.md."""

    is_measured: bool = True
    documents_per_source: Positive = 200
    prefix_tokens: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (16, 32, 64)
    continuation_tokens: Positive = 32
    samples: Annotated[int, Field(ge=0, le=100)] = 2  # drawn continuations per prefix, beside the greedy one
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 0.8


class Release(Section):
    """How the model is published.

    `key` is a P-256 private key in PEM; it is made where none is. `answers` is a file of what only people can say.
    """

    licence: str = "Apache-2.0"
    title: str = ""
    contact: str = ""
    key: str = ""
    answers: str = ""


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
    memorisation: Memorisation = Memorisation()
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
