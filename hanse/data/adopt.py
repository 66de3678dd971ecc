"""Another's tokenizer: a model that is continued keeps its own, and Hanse's control tokens are found a place in it.

Text keeps its ids. What changes are the names of control tokens: the end, begin and padding tokens that the model knows
get the names by which Hanse calls them, reserved tokens that were never used become the others, and for what is then
still missing ids are added behind the last (`Transformer.grow_vocabulary` adds the rows).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from hanse.data.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS, Progress, save, write_premium
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.store.stage import Work

#: How families name tokens that they keep for later: Llama 3, Gemma, Apertus and Mistral, Qwen, BERT's heirs.
_RESERVED = re.compile(r"<\|?(reserved_special_token_|unused_?|SPECIAL_|extra_|extra_id_|dummy_)\d+\|?>|\[unused\d+\]")
#: What our token is in another's tokenizer_config.json; the end first, since some use one token for two of these.
_ROLES = ((END_OF_TEXT, "eos_token"), (BEGIN_OF_TEXT, "bos_token"), (PAD, "pad_token"))
_PROBE = "Straße 1234, don't  ΑΓΟΡΆ\n\n Łódź ħobża\t🙂 </s><|endoftext|> x"


def import_tokenizer(
    work: Work, folder: Path, dataset: Path, *, chat_template: str, progress: Progress | None = None
) -> None:
    """Write a tokenizer artifact from the tokenizer of a model folder.

    Args:
        work: the folder to fill.
        folder: a model folder with its `tokenizer.json` and, for the roles of its tokens, `tokenizer_config.json`.
        dataset: folder of a dataset artifact, on whose text the tokenizer is measured.
        chat_template: Jinja source that goes with Hanse's control tokens; the folder's own speaks of others.
        progress: called with a phrase, the bytes done, and their total.

    Raises:
        InputError: the folder has no tokenizer, or one that is no byte-level BPE.
    """
    tokenizer, places = adopt(folder)
    save(tokenizer, work.folder, chat_template=chat_template)
    if progress is not None:
        progress("measuring the tokenizer", 0, None)
    vocab_size = write_premium(work, dataset)
    work.note(vocab_size=vocab_size, control_tokens=places)


def adopt(folder: Path) -> tuple[HFTokenizer, dict[str, str]]:
    """The tokenizer of a model folder with Hanse's control tokens, and what each of them was: a token, or "new".

    Raises:
        InputError: as `import_tokenizer`.
    """
    path = folder / "tokenizer.json"
    definition = _read(path)
    _refuse_other_kinds(definition, path)
    # Settings of whoever saved it: one would cut texts, the others put tokens around them.
    definition |= {"truncation": None, "padding": None, "post_processor": None}
    before = _load(definition, path)
    names = _places(before, _roles(folder))
    for entry in definition["added_tokens"]:
        entry["content"] = names.get(entry["content"], entry["content"])
        if entry["content"] in SPECIAL_TOKENS:
            entry |= {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    vocabulary = definition["model"]["vocab"]
    definition["model"]["vocab"] = {names.get(token, token): token_id for token, token_id in vocabulary.items()}
    after = _load(definition, path)
    missing = [token for token in SPECIAL_TOKENS if after.token_to_id(token) is None]
    after.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    _check_same(before, after, names, path)
    return after, {**{ours: theirs for theirs, ours in names.items()}, **dict.fromkeys(missing, "new")}


def _read(path: Path) -> dict[str, Any]:
    try:
        definition = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(definition["model"]["vocab"], dict) or not isinstance(definition["added_tokens"], list):
            raise ValueError("its vocabulary is no table")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: no tokenizer that can be read ({error}); a continued model keeps its own.") from None
    return dict(definition)


def _load(definition: Mapping[str, Any], path: Path) -> HFTokenizer:
    try:
        return HFTokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise InputError(f"{path}: no tokenizer that can be read ({error}).") from None


def _refuse_other_kinds(definition: Mapping[str, Any], path: Path) -> None:
    """Bytes of tokens have to be known, to measure bits per byte and to write whole characters."""
    kinds = set(_types(definition.get("decoder")))
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    if (
        definition["model"].get("type") != "BPE"
        or "ByteLevel" not in kinds
        or letters - set(definition["model"]["vocab"])
    ):
        raise InputError(
            f"{path}: is not byte-level BPE, the only kind that can be taken over (SentencePiece vocabularies are not)."
        )


def _types(part: Any) -> Iterator[str]:
    """The types of a decoder and of what it is made of."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.get("decoders") or ():
            yield from _types(inner)


def _roles(folder: Path) -> dict[str, str]:
    """Our name -> the token that plays its part, as far as `tokenizer_config.json` says."""
    try:
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found = {}
    for ours, key in _ROLES:
        token = said.get(key) if isinstance(said, dict) else None
        token = token.get("content") if isinstance(token, dict) else token  # older folders write the whole token
        if isinstance(token, str):
            found[ours] = token
    return found


def _places(tokenizer: HFTokenizer, roles: Mapping[str, str]) -> dict[str, str]:
    """Their token -> the control token of ours that takes its place; ours that are there already keep theirs."""
    there = {token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is not None}
    names: dict[str, str] = {}
    for ours, theirs in roles.items():
        if ours not in there and theirs not in (*there, *names) and tokenizer.token_to_id(theirs) is not None:
            names[theirs] = ours
    added = sorted((number, token.content) for number, token in tokenizer.get_added_tokens_decoder().items())
    free = [token for _, token in added if _RESERVED.fullmatch(token) and token not in (*there, *names)]
    wanting = [token for token in SPECIAL_TOKENS if token not in there and token not in names.values()]
    return names | dict(zip(free, wanting, strict=False))


def _check_same(before: HFTokenizer, after: HFTokenizer, names: Mapping[str, str], path: Path) -> None:
    """The promise of this file, held against the library, which numbers new tokens in its own way."""
    ids = after.get_vocab()
    is_moved = any(ids.get(names.get(token, token)) != number for token, number in before.get_vocab().items())
    is_shared = len(set(ids.values())) < len(ids)
    for tokenizer in (before, after):
        tokenizer.encode_special_tokens = True
    is_other = before.encode(_PROBE, add_special_tokens=False).ids != after.encode(_PROBE, add_special_tokens=False).ids
    after.encode_special_tokens = False
    if is_moved or is_shared or is_other:
        raise InputError(
            f"{path}: ids would change when control tokens are named anew, so this tokenizer cannot be taken over."
        )
