"""Reading a `tokenizer.json` as llama.cpp holds it: the same tokens in the same order, and the name of a split.

llama.cpp does not run a split from the file; it knows some by name. So only tokenizers whose split is one of those can
be written, and which one is decided by its expression.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from hanse.data.tokenizer import SPLIT
from hanse.errors import InputError
from hanse.model.gguf.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, Vocabulary
from hanse.serve.detokenize import token_bytes
from hanse.tune.template import END_OF_TEXT, END_OF_TURN

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"


def read_vocabulary(
    folder: Path, vocab_size: int, *, token_ids: Mapping[str, Any], sends_every_token: bool = False
) -> Vocabulary:
    """Read a folder's tokenizer.

    Args:
        folder: of the model.
        vocab_size: rows of the embedding.
        token_ids: `config.json`, for what it says of the first, last and filling token.
        sends_every_token: spell every byte beyond ASCII as one letter (Latin-1). llama.cpp's server keeps the id of a
            token back while its text ends within a character, and then gives out only the last one; so spelled, no
            text does. For a caller that goes by ids alone: text is no longer cut into these tokens.

    Raises:
        InputError: no tokenizer that can be read, more tokens than rows, or one that llama.cpp would read otherwise.
    """
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
        values = json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise InputError(f"{path}: no tokenizer that can be read ({error}); a GGUF file needs one inside.") from error
    _refuse(path, values)
    texts = {token_id: token for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
    if texts and max(texts) >= vocab_size:
        raise InputError(
            f"{path}: has token {max(texts)}, but the model's vocabulary ends at {vocab_size - 1}; these two do not "
            "belong together."
        )
    controls = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    named = set(tokenizer.get_added_tokens_decoder()) - controls
    merges = tuple(each if isinstance(each, str) else " ".join(each) for each in values["model"]["merges"])
    if sends_every_token:
        spelled = {
            number: written.decode("latin-1")
            for number, written in enumerate(token_bytes(tokenizer))
            if not written.isascii()
        }
        texts |= spelled
        named |= spelled.keys()
        merges = ()
    types = tuple(
        UNUSED if number not in texts
        else CONTROL if number in controls
        else USER_DEFINED if number in named
        else NORMAL
        for number in range(vocab_size)
    )  # fmt: skip
    return Vocabulary(
        split=_split(path, values),
        tokens=tuple(texts.get(number, f"[unused {number}]") for number in range(vocab_size)),
        types=types,
        merges=merges,
        special=_special(path, tokenizer, token_ids, vocab_size),
        template=_template(folder),
    )


def _refuse(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp has no place for."""
    model = values.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("merges"), list):
        raise InputError(f"{path}: is {model.get('type')}, not byte-level BPE; llama.cpp could not read it alike.")
    if values.get("normalizer") is not None:
        raise InputError(
            f"{path}: changes its text first ({values['normalizer'].get('type')}), which llama.cpp does not do; use a "
            "tokenizer without a normalizer."
        )
    if model.get("dropout") or model.get("byte_fallback"):
        raise InputError(f"{path}: dropout and byte_fallback are not what llama.cpp computes; switch them off.")


def _split(path: Path, values: Mapping[str, Any]) -> str:
    """llama.cpp's name for how this tokenizer cuts text into words."""
    found = values.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    kinds = [step.get("type") for step in steps]
    letters = next((step for step in steps if step.get("type") == "ByteLevel"), None)
    if letters is not None and not letters.get("add_prefix_space"):
        if kinds == ["ByteLevel"] and letters.get("use_regex", True):
            return "gpt-2"
        if kinds == ["ByteLevel"] and not values["model"]["merges"]:
            return "llama-bpe"  # single bytes, whatever the words are
        is_llama = kinds == ["Split", "ByteLevel"] and steps[0].get("pattern") == {"Regex": SPLIT}
        if is_llama and steps[0].get("behavior") == "Isolated" and not letters.get("use_regex", True):
            return "llama-bpe"
    raise InputError(
        f"{path}: cuts text into words in a way that llama.cpp has no name for here; only Llama 3's split (ours) and "
        "GPT-2's can be written."
    )


def _special(path: Path, tokenizer: Tokenizer, token_ids: Mapping[str, Any], vocab_size: int) -> dict[str, int]:
    """The ids that begin, end and fill: by the tokens' own names, else as config.json has them."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    end = _number(token_ids.get("eos_token_id")) if end is None else end
    if end is None:  # llama.cpp would take token 11
        raise InputError(f"{path}: has no {END_OF_TEXT}, and config.json no eos_token_id; a text has to end somewhere.")
    begin = _number(token_ids.get("bos_token_id"))
    found = {
        "bos": end if begin is None else begin,
        "eos": end,
        "eot": tokenizer.token_to_id(END_OF_TURN),
        "padding": _number(token_ids.get("pad_token_id")),
    }
    return {name: number for name, number in found.items() if number is not None and 0 <= number < vocab_size}


def _number(value: object) -> int | None:
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _template(folder: Path) -> str:
    """The chat template, without the marks around what the assistant wrote: few engines outside training know them."""
    path = folder / TEMPLATE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it has to be UTF-8 text.") from error
    # An `if` in their place keeps the white space around them as it is.
    text = re.sub(r"(\{%[-+]?)\s*generation\s*([-+]?%\})", r"\1 if true \2", text)
    return re.sub(r"(\{%[-+]?)\s*endgeneration\s*([-+]?%\})", r"\1 endif \2", text)
