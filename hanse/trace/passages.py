"""The output filter: what a server must not say any more, as hashes of passages.

Every run of WINDOW letters and digits of a withdrawn text is one 64-bit hash: a polynomial over the letters modulo
2**64, which a server rolls along with an answer (Karp and Rabin, IBM J. Res. Dev. 31(2), 1987). Case, accents, blanks
and punctuation do not count, so that another line break or quotation mark is no way around it.

The weights are not changed by this. They were trained on the text, and are named as such; the filter keeps them from
reciting it word for word. It says nothing about a paraphrase, or about anyone who runs the weights elsewhere.

    <store>/withdrawals/passages.bin    a line of JSON, padded to a multiple of 8 bytes; sorted uint64, little-endian
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hanse.errors import InputError
from hanse.store import disk
from hanse.store.layout import MARKER
from hanse.store.lock import hold
from hanse.store.stage import Artifact, Store
from hanse.trace import withdrawal
from hanse.trace.withdrawal import FOLDER, Withdrawal

WINDOW = 50  # letters and digits
FILE = "passages.bin"
_MAGIC = "hanse passages"
_FORMAT = 1
_MASK = 2**64 - 1
_BASE = 0x9E3779B97F4A7C15  # odd, so that no letter is lost modulo 2**64
_TOP = pow(_BASE, WINDOW - 1, 2**64)
_SIEVE_BITS = 16  # for each hash; all but one in so many letters of an answer need no search


def write(store: Store, withdrawals: Sequence[Withdrawal]) -> Path:
    """Write the hashes of all withdrawn texts that are still in a dataset or conversations of the store.

    Hashes of an earlier file stay: once the text itself is deleted, nothing else remembers it.

    Returns:
        The file.

    Raises:
        InputError: a dataset, or the earlier file, cannot be read; or no room.
    """
    from hanse.trace import leaving  # a server only opens the file, and needs none of this

    place = store.root / FOLDER / FILE
    with hold(store.root / ".locks" / f"{FILE}.lock", "writing the output filter", waits=True):
        before = Filter.open(place).hashes if place.exists() else np.zeros(0, np.uint64)
        found = [before, *(hashes for each in leaving.artifacts(store) for hashes in _of_artifact(each, withdrawals))]
        content = _content(np.unique(np.concatenate(found)), [each.digest for each in withdrawals])
        disk.write_whole(place, content, root=store.root, what="the output filter")
    return place


def hashes_of(text: str, folding: Folding | None = None) -> np.ndarray:
    """The hash of every window of a text, uint64 (windows,); none where it has fewer than WINDOW letters and digits."""
    plain = text.translate(folding or Folding())
    values_N = _mixed(np.frombuffer(plain.encode("utf-32-le"), "<u4").astype(np.uint64))
    count = len(values_N) - WINDOW + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    hashes_W = np.zeros(count, np.uint64)
    for place in range(WINDOW):  # products and sums of uint64 arrays wrap, as they should
        hashes_W = hashes_W * np.uint64(_BASE) + values_N[place : place + count]
    return hashes_W


class Folding(dict[int, str]):
    """Code point -> what of it counts: its letters and digits, without case and accents (Unicode NFKD); for translate.

    Each code point by itself, so that a text folds the same however it is cut into pieces.
    """

    def __missing__(self, code: int) -> str:
        plain = unicodedata.normalize("NFKD", chr(code)).casefold()
        self[code] = "".join(sign for sign in plain if sign.isalnum())
        return self[code]


class Filter:
    """The hashes of a file, ready to watch answers. Open it with `Filter.open`.

    Attributes:
        hashes: sorted, uint64.
        withdrawals: digests of those that it was made from.
        ended: answers that it ended so far.
    """

    def __init__(self, hashes: np.ndarray, withdrawals: Sequence[str] = ()) -> None:
        self.hashes = hashes
        self.withdrawals = tuple(withdrawals)
        self.ended = 0
        self.folding = Folding()
        self.values: dict[str, int] = {}
        size = max(64, 1 << int(len(hashes) * _SIEVE_BITS - 1).bit_length()) if len(hashes) else 64
        sieve = np.zeros(size // 8, np.uint8)
        places = hashes & np.uint64(size - 1)
        np.bitwise_or.at(
            sieve, (places >> np.uint64(3)).astype(np.int64), (1 << (places & np.uint64(7))).astype(np.uint8)
        )
        self._sieve, self._last = sieve.tobytes(), size - 1

    @classmethod
    def open(cls, path: Path) -> Filter:
        """Read a file that `write` made.

        Raises:
            InputError: it cannot be read, is something else, or was changed.
        """
        try:
            content = path.read_bytes()
            line, _, _ = content.partition(b"\n")
            head = json.loads(line) if len(line) < 2**26 else {}
            if head["what"] != _MAGIC or head["format"] != _FORMAT or head["window"] != WINDOW:
                raise ValueError("it is none, or one of another format")
            payload = content[-(-(len(line) + 1) // 8) * 8 :]
            if hashlib.sha256(payload).hexdigest() != head["sha256"]:
                raise ValueError("its hashes are not the ones that its head names")
            hashes = np.frombuffer(payload, "<u8").astype(np.uint64)
            digests = [str(each) for each in head["withdrawals"]]
        except OSError as error:
            raise InputError(f"{path}: the output filter cannot be read ({error.strerror}).") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            told = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: is no output filter as it was written ({told}); restore it.") from None
        return cls(hashes, digests)

    def __contains__(self, value: int) -> bool:
        place = value & self._last
        if not self._sieve[place >> 3] >> (place & 7) & 1:
            return False
        found = int(np.searchsorted(self.hashes, np.uint64(value)))
        return found < len(self.hashes) and int(self.hashes[found]) == value

    def stream(self) -> Watch:
        """A watch over one answer."""
        return Watch(self)

    def holds(self, text: str) -> bool:
        """Whether a text says a withdrawn passage."""
        return self.stream().add(text)


class Watch:
    """Follows one answer, piece by piece, in constant time a letter.

    Attributes:
        found: a withdrawn passage was said.
        kept: of the last piece, the characters before that passage; all of it where none was.
    """

    def __init__(self, passages: Filter) -> None:
        self._passages = passages
        self._folding, self._values = passages.folding, passages.values
        self._ring = [0] * WINDOW
        self._places = [0] * WINDOW  # of the characters in the ring, counted from the beginning of the answer
        self._at = self._hash = self._letters = self._characters = 0
        self.found = False
        self.kept = 0

    def add(self, text: str) -> bool:
        """Take in a piece. Returns whether WINDOW letters on end, the last one in here, are a withdrawn passage's."""
        if self.found:
            self.kept = 0
            return True
        before = self._characters
        for character in text:
            for letter in self._folding[ord(character)]:
                if self._push(letter):
                    self.found = True
                    self.kept = max(0, self._places[self._at] - before)
                    return True
            self._characters += 1
        self.kept = len(text)
        return False

    def _push(self, letter: str) -> bool:
        value = self._values.get(letter)
        if value is None:
            value = self._values[letter] = int(_mixed(np.array([ord(letter)], np.uint64))[0])
        at = self._at
        self._hash = ((self._hash - self._ring[at] * _TOP) * _BASE + value) & _MASK
        self._ring[at], self._places[at] = value, self._characters
        self._at = (at + 1) % WINDOW
        self._letters += 1
        return self._letters >= WINDOW and self._hash in self._passages


def of_model(folder: Path, given: Path | None) -> Filter | None:
    """The filter that a server of a model has to apply: the one given, else that of the store in which the model lies.

    Raises:
        InputError: it cannot be read, or documents were withdrawn since it was written.
    """
    if given is not None:
        return Filter.open(given)
    here = folder.resolve()
    root = here.parents[2] if len(here.parents) > 2 else here
    known = withdrawal.read(root) if (root / MARKER).is_file() else ()
    if not known:
        return None
    place = root / FOLDER / FILE
    found = Filter.open(place) if place.exists() else None
    if found is None or not {each.digest for each in known} <= set(found.withdrawals):
        raise InputError(
            f"{place}: does not know every withdrawal of this store, so the model could recite what was withdrawn; "
            f"write it anew with: hanse withdraw --refresh --store {root}"
        )
    return found


# --------------------------------------------------------------------------- what is withdrawn


def _of_artifact(artifact: Artifact, withdrawals: Sequence[Withdrawal]) -> Iterator[np.ndarray]:
    import pyarrow as pa

    from hanse.store.query import is_kept
    from hanse.trace import leaving

    ids: set[str] = set()
    for table, mask in leaving.meant(partial(leaving.tables, artifact), withdrawals):
        ids.update(table["id"].filter(pa.array(mask & is_kept(table))).to_pylist())
    if not ids:
        return
    folding = Folding()
    for text in texts_of(artifact, ids):
        yield np.unique(hashes_of(text, folding))


def texts_of(artifact: Artifact, ids: set[str]) -> Iterator[str]:
    """The texts that an artifact holds of these documents. Raises InputError if they cannot be read."""
    if artifact.kind == "conversations":
        from hanse.data.conversations import SPLITS, read

        for path in (artifact.path / f"{split}.jsonl" for split in SPLITS):
            for row in read(path) if path.is_file() else ():
                if str(row.get("id")) in ids:
                    yield from (str(message.get("content") or "") for message in row["messages"])
        return
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = pa.array(sorted(ids), pa.string())
    for path in sorted((artifact.path / "text").glob("*.parquet")):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(2**12, columns=["id", "text"]):
                    yield from batch.filter(pc.is_in(batch["id"], value_set=wanted))["text"].to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            told = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: cannot be read ({told}); make the dataset again.") from None


def _mixed(codes: np.ndarray) -> np.ndarray:
    """Code points as uniform 64-bit values: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (codes + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def _content(hashes: np.ndarray, digests: Sequence[str]) -> bytes:
    payload = hashes.astype("<u8").tobytes()
    head: dict[str, Any] = {
        "what": _MAGIC, "format": _FORMAT, "window": WINDOW, "hashes": len(hashes),
        "sha256": hashlib.sha256(payload).hexdigest(), "withdrawals": list(digests),
    }  # fmt: skip
    line = json.dumps(head).encode() + b"\n"
    return line + b" " * (-len(line) % 8) + payload
