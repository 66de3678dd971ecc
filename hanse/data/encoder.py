"""Many texts to token ids at speed: by gigatoken where it gives the ids of Hugging Face tokenizers, else by those.

gigatoken replaces the split's regular expression by SIMD code and remembers the ids of words it has met;
bench/encode.py measures what that saves and counts differing ids over a whole corpus. It is given the definition from
memory: the part of it that can load from a hub is never called.
"""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from hanse.data.tokenizer import SPECIAL_TOKENS, Tokenizer

# gigatoken 0.10 remembers words without bound, so it is made anew after so much text. Measured: random words, the worst
# case, take 10 bytes of memory for a byte of text, and ordinary text in 28 languages takes about 2.
RENEW_BYTES = 128 * 2**20
PLANES = 0x20000  # code points of the two planes that letters of Europe could come from
# Where splits differ if they differ at all: contractions in all cases (the long s folds to s), line ends, runs of
# blanks, digits in groups, blanks before punctuation, letters with marks, signs outside the basic plane.
PROBES = (
    "", " ", "  ", "\n", "\r\n", " \n \r\n\n", "\t\tx", "a  b   c ", "\u00a0\u2003a\u3000b\u0085c\u2028d\ufeff",
    "don't DON'T we'll WE'LL i'd I'D it's IT'S we're WE'RE i've I'VE i'm I'M 'ſ x'ſ l'été l’été 's't're",
    "1 12 123 1234 12345678 1.234,56 ½²Ⅷ٣१२३४ x1y22z333", "!!! ...\n\n (a)[b]{c} --- a.b,c;d \n.\n.\r\n ?!\n",
    "Straße ΑΓΟΡΆ Щука ħobża ġnien Łódź ştiinţă čeština e\u0301a\u0323\u0302 İı ǅ",
    "中文字符 かな カナ 한국어 العربية עברית हिन्दी ไทย", "🙂🇪🇺👨‍👩‍👧 𝔘𝔫𝔦 𐌰𐌱 \U0010ffff",
    "aaaa" * 300, " " * 300 + "x", "\n" * 300,
)  # fmt: skip


@dataclass(frozen=True)
class Encoded:
    """The ids of several texts.

    Attributes:
        ids: of all texts, end to end; unsigned.
        lengths: tokens of each text, int64.
    """

    ids: np.ndarray
    lengths: np.ndarray


class Encoder:
    """A tokenizer for bulk: control tokens that are spelled out in a text are text.

    Attributes:
        engine: what encodes, with its version, such as `gigatoken 0.10.0`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the fast engine if it is there and agrees on the probes; else warn and take the slow one."""
        self._tokenizer = tokenizer
        self._definition = _without_control_tokens(tokenizer.hf.to_str())
        self._since_renewal = 0
        self._fast, refusal = self._try_fast()
        self.engine = _version("tokenizers" if self._fast is None else "gigatoken")
        if refusal:
            warnings.warn(f"encoding by Hugging Face tokenizers, which takes far longer: {refusal}.", stacklevel=2)

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Token ids of texts in UTF-8."""
        if self._fast is None:
            return self._encode_slowly(texts)
        self._since_renewal += sum(map(len, texts))
        if self._since_renewal > RENEW_BYTES:
            self._fast, self._since_renewal = _load_fast(self._definition), 0
        return self._fast(texts)

    def lengths(self, texts: Sequence[bytes]) -> np.ndarray:
        """Tokens of each text, int64."""
        return self.encode(texts).lengths

    def _encode_slowly(self, texts: Sequence[bytes]) -> Encoded:
        rows = self._tokenizer.encode_batch([text.decode() for text in texts])
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(chain.from_iterable(rows), np.uint32, int(lengths.sum()))
        return Encoded(ids, lengths)

    def _try_fast(self) -> tuple[Callable[[Sequence[bytes]], Encoded] | None, str]:
        """The fast engine, or why there is none."""
        try:
            fast = _load_fast(self._definition)
        except ImportError as error:
            return None, f"gigatoken cannot be imported ({error})"
        except Exception as error:  # it refuses a tokenizer that it does not know in more than one way
            return None, f"gigatoken does not take this tokenizer ({error})"
        texts = probes()
        ours, theirs = self._encode_slowly(texts), fast(texts)
        if not (np.array_equal(ours.lengths, theirs.lengths) and np.array_equal(ours.ids, theirs.ids)):
            return None, "gigatoken gives other ids on the probes"
        return fast, ""


def probes() -> list[bytes]:
    """Texts on which an encoder shows whether it splits and merges alike.

    Tables of Unicode's letters and digits that differ do so at a border: the first character of every run of one
    category is among the texts.
    """
    kinds = [unicodedata.category(chr(code)) for code in range(PLANES)]
    firsts = [chr(code) for code in range(1, PLANES) if kinds[code] != kinds[code - 1] and kinds[code] != "Cs"]
    return [text.encode() for text in (*PROBES, *SPECIAL_TOKENS, " ".join(SPECIAL_TOKENS), *in_context(firsts))]


def in_context(characters: Sequence[str]) -> list[str]:
    """Texts with each character at the beginning of a word, twice, within and at the end of one."""
    words = [f"{c}{c}a{c}" for c in characters]
    return [" ".join(words[at : at + 512]) for at in range(0, len(words), 512)]


def _load_fast(definition: str) -> Callable[[Sequence[bytes]], Encoded]:
    """gigatoken over a definition, on one thread.

    Each of its threads learns the words for itself: two took 1.9 times the CPU time of one and no less wall time on
    batches of a few MB. And no thread of it can be lost in a fork.
    """
    import awkward
    from gigatoken.gigatoken_rs import load_hf_json

    coder = load_hf_json(definition)

    def encode(texts: Sequence[bytes]) -> Encoded:
        if not texts:
            return Encoded(np.empty(0, np.uint32), np.empty(0, np.int64))
        rows = coder.encode_batch(list(texts), parallel=False)
        return Encoded(awkward.to_numpy(awkward.flatten(rows)), awkward.to_numpy(awkward.num(rows)))

    return encode


def _without_control_tokens(definition: str) -> str:
    """The same tokenizer, to which control tokens are text like any other."""
    content: dict[str, Any] = json.loads(definition)
    return json.dumps({**content, "added_tokens": []}, ensure_ascii=False)


def _version(package: str) -> str:
    from importlib.metadata import version

    return f"{package} {version(package)}"
