"""A model of any other family: transformers computes it, Hanse trains, evaluates and serves it.

Legend: B batch, T positions, N tokens of a packed batch, D hidden, V vocabulary.

Nothing is believed of a family. When a folder is opened, the model is asked with a few tokens whether its output head
is a plain matrix and whether it keeps packed documents apart; what it does not do is done here or refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hanse.errors import InputError
from hanse.model.cache import View, too_long
from hanse.model.config import NATIVE, ForeignConfig
from hanse.model.config.folder import read_values, weight_files
from hanse.model.config.opening import FAMILY_KEY, FOREIGN
from hanse.model.documents import Layout
from hanse.model.foreign_cache import ForeignCache, ForeignPool
from hanse.model.transformer import Transformer, grown

#: Of the largest number of two results; float32 gives 1e-6, a real difference far more.
_TOLERANCE = 1e-4
_PROBE = 7
_FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")
_ONE_FILE = 2**62


class ForeignModel(Transformer):
    """`Transformer`'s interface around a transformers model.

    Dropout is always off, because a training step is a function of its number alone. Experts have no router bias that
    moves here, so nothing balances them.

    Attributes:
        inner: the model with its head, as transformers has it.
        isolates: whether it keeps packed documents apart by itself. If not, documents of one length go through it
            together, so the number of its forwards depends on the batch.
        caches: whether its cache gives what the whole text gives. If not, every token is computed from the whole text.
    """

    config: ForeignConfig

    def __init__(self, inner: nn.Module, config: ForeignConfig) -> None:
        nn.Module.__init__(self)  # none of a native model's parts
        self.inner: Any = inner.eval()
        self.config = config
        self.isolates = self.caches = True
        self.mtp = None

    @classmethod
    def load(cls, folder: Path, config: ForeignConfig, *, device: torch.device | str = "cpu") -> ForeignModel:
        """Open a model folder; only safetensors are read, no code in it is run, and nothing is fetched.

        Raises:
            InputError: transformers is missing or does not know the family, weights do not fit, or the model computes
                its logits in another way than by one matrix.
        """
        transformers = _transformers()
        weight_files(folder)
        with _quiet(transformers):
            try:
                inner, report = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                    output_loading_info=True, ignore_mismatched_sizes=True,
                )  # fmt: skip
            except (ValueError, OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{folder}: transformers cannot open this model ({_first_line(error)}).") from error
        for kind, complaint in (
            ("missing_keys", "is missing; config.json promises it"),
            ("mismatched_keys", "has another shape than config.json says"),
            ("unexpected_keys", "has no place in this family; it would be lost"),
        ):
            found = sorted(key if isinstance(key, str) else str(key[0]) for key in report.get(kind) or ())
            if found:
                raise InputError(f"{folder}: {found[0]} {complaint} (model_type {config.model_type!r}).")
        model = cls(inner.to(device), config)
        model._examine(folder)
        return model

    @torch.no_grad()
    def _examine(self, folder: Path) -> None:
        """See how the model makes its logits, whether documents in one row see each other, whether its cache works."""
        tokens_1T = torch.arange(_PROBE, device=self.embed_tokens.device)[None] % self.config.vocab_size
        try:
            hidden_1TD = self._hidden(tokens_1T)
            logits_1TV = self.inner(tokens_1T, use_cache=False).logits
        except Exception as error:  # whatever a family's code does on sizes that it did not expect
            raise InputError(f"{folder}: transformers cannot compute this model ({_first_line(error)}).") from error
        has_bias = getattr(self.inner.get_output_embeddings(), "bias", None) is not None
        is_plain = hidden_1TD.shape[-1] == self.head_VD.shape[1] and _agree(self.logits(hidden_1TD), logits_1TV)
        if has_bias or not is_plain:
            raise InputError(
                f"{folder}: the logits of {self.config.model_type} are not its last hidden states times one matrix, "
                "which training here stands on; choose another model."
            )
        borders_1T = torch.tensor([[0, 0, 0, 1, 2, 2, 2]], device=tokens_1T.device)
        apart = [self._hidden(part) for part in (tokens_1T[:, :3], tokens_1T[:, 3:4], tokens_1T[:, 4:])]
        self.isolates = _agree(self._packed(tokens_1T, borders_1T), torch.cat(apart, 1))
        self.caches = self._can_cache(tokens_1T, hidden_1TD)

    def _can_cache(self, tokens_1T: Tensor, hidden_1TD: Tensor) -> bool:
        """Whether decoding in two rows, of which one ends and the other goes back, gives what the whole text gives."""
        try:
            cache = self.new_cache(2, capacity=_PROBE)
            self._cached(torch.cat((tokens_1T, tokens_1T.flip(1)))[:, :4], cache, 0)
            cache.keep(torch.tensor([0], device=tokens_1T.device))
            parts = [self._cached(tokens_1T[:, at : at + 1], cache, at) for at in (4, 3, 4, 5, 6)]
        except Exception:  # families keep their past in many ways, and fail in as many
            return False
        return _agree(torch.cat(parts[1:], 1), hidden_1TD[:, 3:])

    @property
    def base(self) -> Any:
        """The model without its head."""
        return self.inner.base_model

    @property
    def embed_tokens(self) -> nn.Parameter:  # type: ignore[override]
        """The embedding's weight, (V, D)."""
        return self.inner.get_input_embeddings().weight

    @property
    def head_VD(self) -> Tensor:
        """The output head's weight, (V, D)."""
        return self.inner.get_output_embeddings().weight

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]
        """The blocks: the outermost list that is as long as the model has layers, else the longest list."""
        lists = [module for module in self.base.modules() if isinstance(module, nn.ModuleList) and len(module)]
        if not lists:
            raise InputError(f"{self.config.model_type}: this family keeps no list of blocks, so it cannot be trained.")
        exact = [found for found in lists if len(found) == self.config.num_hidden_layers]
        return exact[0] if exact else max(lists, key=len)

    @property
    def norm(self) -> nn.Module:  # type: ignore[override]
        """The norm after the last block; one that does nothing where the family has none."""
        return next((getattr(self.base, name) for name in _FINAL_NORMS if hasattr(self.base, name)), nn.Identity())

    def train(self, mode: bool = True) -> ForeignModel:
        """Note the mode; the inner model stays as it is used, without dropout."""
        self.training = mode
        return self

    def forward(
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        *,
        cache: Any = None,
        start: int = 0,
        absorb: bool | None = None,
    ) -> Tensor:
        """See `Transformer.forward`."""
        if cache is not None:
            if documents_BT is not None:
                raise ValueError("documents and a cache cannot be used together")
            return self._cached(tokens_BT, cache, start)
        if documents_BT is None:
            return self._hidden(tokens_BT)
        if documents_BT.shape != tokens_BT.shape:
            raise ValueError(f"documents have shape {tuple(documents_BT.shape)}, tokens {tuple(tokens_BT.shape)}")
        # One forward for all costs the square of the row: right for training, whose rows are short.
        is_one_forward = self.isolates and torch.is_grad_enabled()
        return self._packed(tokens_BT, documents_BT) if is_one_forward else self._by_length(tokens_BT, documents_BT)

    def _hidden(self, tokens_BT: Tensor, **further: Any) -> Tensor:
        further = {"use_cache": False, **further}
        return self.base(input_ids=tokens_BT, **further).last_hidden_state

    def _packed(self, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """One forward; transformers takes a position that does not follow the one before for a new document."""
        if bool((documents_BT.diff(dim=1) >= 0).all()):
            return self._hidden(tokens_BT, position_ids=_positions(documents_BT))
        order_BT = documents_BT.argsort(dim=1, stable=True)
        sorted_BT = documents_BT.gather(1, order_BT)
        hidden_BTD = self._hidden(tokens_BT.gather(1, order_BT), position_ids=_positions(sorted_BT))
        back_BT1 = order_BT.argsort(dim=1).unsqueeze(-1)
        return hidden_BTD.gather(1, back_BT1.expand_as(hidden_BTD))

    def _by_length(self, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """One forward for each group of documents of one length, filled up at their end, where causality hides it."""
        layout = Layout.of(tokens_BT, documents_BT)
        (tokens_P,) = layout.fill(layout.pack(tokens_BT))
        outs, begin = [], 0
        for documents, length in layout.groups:
            end = begin + documents * length
            outs.append(self._hidden(tokens_P[begin:end].view(documents, length)).flatten(0, 1))
            begin = end
        (hidden_ND,) = layout.take(torch.cat(outs))
        return layout.unpack(hidden_ND, tokens_BT.shape)

    def _cached(self, tokens_BT: Tensor, cache: ForeignCache, start: int) -> Tensor:
        if not 0 <= start <= cache.length:
            raise ValueError(f"start {start} lies outside the cache, which holds {cache.length} tokens")
        end = start + tokens_BT.shape[1]
        if end > cache.capacity:
            raise too_long(end, cache.capacity)
        known, cache.length = cache.length, end
        cache.tokens_BS = torch.cat((cache.tokens_BS[:, :start], tokens_BT), 1)
        if not self.caches:
            return self._hidden(cache.tokens_BS)[:, start:]
        if start < known:  # few of the many kinds of caches can be shortened
            cache.inner, begin = self._new_inner(), 0
        else:
            begin = start
        positions_1T = torch.arange(begin, end, device=tokens_BT.device)[None]
        hidden_BTD = self._hidden(
            cache.tokens_BS[:, begin:], past_key_values=cache.inner, position_ids=positions_1T, use_cache=True
        )
        return hidden_BTD[:, start - begin :]

    def new_cache(self, rows: int, *, capacity: int) -> Any:
        """An empty cache for `forward`; see `Transformer.new_cache`."""
        tokens_BS = torch.empty(rows, 0, dtype=torch.int64, device=self.embed_tokens.device)
        return ForeignCache(tokens_BS, self._new_inner(), capacity)

    def new_pool(self, blocks: int, *, block: int, is_drafting: bool = False) -> Any:
        """Where `extend` keeps the past of texts; see `Transformer.new_pool`."""
        return ForeignPool(block, self.embed_tokens.device, self.config.hidden_size * self.config.num_hidden_layers * 8)

    def extend(self, tokens_N: Tensor, past: View) -> Tensor:
        """See `Transformer.extend`. Texts that began together go on together, in one forward of transformers."""
        pool = cast(ForeignPool, past.pool)
        outs = []
        for group in past.groups:
            tokens_BT = tokens_N[group.part].view(group.rows, group.length)
            texts = group.blocks_BM[:, 0].tolist()
            if group.is_fresh:
                cache = self.new_cache(group.rows, capacity=self.config.max_position_embeddings)
                outs.append(self._cached(tokens_BT, cache, 0).flatten(0, 1))
                pool.begin(texts, cache)
                continue
            out_BTD = torch.empty(*tokens_BT.shape, self.embed_tokens.shape[1], device=tokens_N.device)
            for cache, members in pool.gather(texts):
                rows = torch.tensor([texts.index(text) for text in members], device=tokens_N.device)
                start = int(past.positions_N[group.part][int(rows[0]) * group.length])
                out_BTD[rows] = self._cached(tokens_BT[rows], cache, start).to(out_BTD.dtype)
            outs.append(out_BTD.flatten(0, 1))
        return torch.cat(outs)

    def _new_inner(self) -> Any:
        return _transformers().DynamicCache(config=self.inner.config) if self.caches else None

    def init_weights(self, generator: torch.Generator | None = None) -> ForeignModel:
        """There is no first draw: such a model starts from a folder."""
        raise InputError(f'[model] family = "{FOREIGN}" starts from a folder; name one as start.')

    def reset_buffers(self) -> None:
        """Nothing: they came with the folder."""

    def routers(self) -> dict[int, Any]:
        """None whose bias is moved here."""
        return {}

    @torch.no_grad()
    def grow_vocabulary(self, vocab_size: int) -> None:
        """See `Transformer.grow_vocabulary`."""
        before = self.config.vocab_size
        if vocab_size <= before:
            return
        with torch.random.fork_rng(devices=[]), _quiet(_transformers()):  # it draws rows that are overwritten here
            self.inner.resize_token_embeddings(vocab_size, mean_resizing=False)
        tables = {id(table): table for table in (self.embed_tokens, self.head_VD)}.values()
        for table_VD in tables:
            table_VD.copy_(grown(table_VD[:before], vocab_size))
        rows = (vocab_size - before) * self.embed_tokens.shape[1]
        config = self.config
        self.config = replace(
            config,
            vocab_size=vocab_size,
            weights=config.weights + rows * len(tables),
            active=config.active + rows * len(tables),
            matrices=config.matrices + rows,
            values={**config.values, "vocab_size": vocab_size},
        )

    def blank(self) -> ForeignModel:
        """A model of the same shapes on the CPU, its weights still to be set."""
        transformers = _transformers()
        with _quiet(transformers):
            inner = transformers.AutoModelForCausalLM.from_config(self.inner.config, dtype=torch.float32)
        model = ForeignModel(inner, self.config)
        model.isolates, model.caches = self.isolates, self.caches
        return model

    def save(self, folder: Path, *, token_ids: Mapping[str, int], dtype: torch.dtype) -> None:
        """Let transformers write the folder, in one file.

        How it generates is left out: the release writes it, from the tokens at which an answer ends.
        """
        transformers = _transformers()
        inner = self.inner
        inner.generation_config = transformers.GenerationConfig()
        done: dict[Any, Tensor] = {}  # a tied tensor stays tied
        state = {
            name: done.setdefault((tensor.data_ptr(), tensor.shape), tensor.detach().to("cpu", dtype))
            for name, tensor in inner.state_dict().items()
        }
        with _quiet(transformers):
            inner.save_pretrained(folder, state_dict=state, max_shard_size=_ONE_FILE)
        (folder / "generation_config.json").unlink(missing_ok=True)
        values = {**read_values(folder), **token_ids, "dtype": str(dtype).removeprefix("torch.")}
        values.pop("auto_map", None)  # code of the folder that it came from
        if values.get("model_type") in NATIVE:
            values[FAMILY_KEY] = FOREIGN
        (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _positions(documents_BT: Tensor) -> Tensor:
    """Position of each token in its document, where documents lie one after the other; int64 (B, T)."""
    all_BT = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    is_first_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    is_first_BT[:, 1:] = documents_BT.diff(dim=1) != 0
    return all_BT - (all_BT * is_first_BT).cummax(1).values


def _agree(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one.float() - other.float()).abs().max() <= _TOLERANCE * other.float().abs().max())


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "This model is of a family that transformers computes; install it with pip install 'hanse[transformers]'."
        ) from error
    return transformers


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bars and advice: what a person has to know is said here."""
    logging = transformers.utils.logging
    before, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if has_bar:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
