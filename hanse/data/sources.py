"""Strict, streaming readers: JSON lines (plain, .gz, .zst), Parquet, folders of text, and the embedded atlas.

Every record becomes a row of the fixed schema or a fault with its place and reason; nothing is guessed, nothing is
lost without a word, and memory is bounded by one line. Files are read in sorted order, so a source always reads alike.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from hanse.data.schema import KNOWN, BadRecord, Defaults, check_record, parse_line
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Source

MAX_LINE_BYTES = 64 * 2**20
ROWS_AT_ONCE = 256  # of a Parquet file
SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst"),
    "conversations": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst"),
    "parquet": (".parquet",),
    "text": (".txt", ".md", ".markdown"),
}
SUFFIXES["conversations"] = SUFFIXES["jsonl"]
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Fault:
    """One thing that could not be read. `line` counts from 1; 0 stands for the file as a whole."""

    source: str
    file: str
    line: int
    reason: str
    detail: str


class BrokenFile(Exception):
    """The rest of a file cannot be read; what came before is sound."""


class DamagedFile(InputError):
    """The content of a file does not match the checksum inside it, so nothing that was read from it can be trusted."""


def read(
    source: Source, *, languages: tuple[str, ...], seed: int, on_fault: Callable[[Fault], None]
) -> Iterator[dict[str, Any]]:
    """Every document of a source, in a fixed order.

    Args:
        source: a [[source]] of the recipe.
        languages: what the atlas is asked to write; other kinds are read whole.
        seed: of the atlas.
        on_fault: called with each record or file that goes to quarantine.

    Yields:
        Rows with the text and the ORIGIN columns of `hanse.data.schema`.

    Raises:
        InputError: the path matches nothing, a file cannot be opened, or the source holds no document at all.
    """
    first_fault: list[Fault] = []

    def report(fault: Fault) -> None:
        if not first_fault:
            first_fault.append(fault)
        on_fault(fault)

    count = 0
    for row in _rows(source, languages, seed, report):
        count += 1
        yield row
    if not count:
        where = source.path or "the atlas"
        if first_fault:
            fault = first_fault[0]
            place = f"{fault.file}, line {fault.line}" if fault.line else fault.file
            raise InputError(f"source '{source.name}': no document in {where} could be read; {place}: {fault.detail}.")
        raise InputError(f"source '{source.name}': {where} is empty; give a source that holds documents.")


def files(source: Source) -> list[Path]:
    """The files of a source, sorted. Raises InputError where there is none."""
    return [path for path, _ in find_files(source)]


def find_files(source: Source) -> list[tuple[Path, str]]:
    """The files of a source in sorted order, each with its name relative to the source's path.

    Raises:
        InputError: nothing there.
    """
    path = source.path
    suffixes = SUFFIXES[source.kind]
    if os.path.isdir(path):
        root = Path(path)
        found = [file for file in root.rglob("*") if file.is_file() and file.name.lower().endswith(suffixes)]
        nothing = f"the folder {path} holds no {' or '.join(suffixes)} file"
    elif glob.has_magic(path) and not os.path.lexists(path):
        root = _fixed_part(path)
        found = [Path(name) for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
        nothing = f"no file matches {path}"
    else:
        root = Path(path).parent
        found = [Path(path)] if os.path.isfile(path) else []
        nothing = f"{path} does not exist"
    if not found:
        raise InputError(f"source '{source.name}': {nothing}; correct the path in the recipe.")
    return sorted(((file, file.relative_to(root).as_posix()) for file in found), key=lambda pair: pair[1])


def _rows(
    source: Source, languages: tuple[str, ...], seed: int, report: Callable[[Fault], None]
) -> Iterator[dict[str, Any]]:
    """Check every record, and refuse an id that the source has used before."""
    defaults = Defaults(
        source=source.name,
        licence=source.licence,
        licence_basis=source.licence_basis,
        rights_holder=source.rights_holder,
        reservation=source.reservation,
    )
    seen: set[int] = set()
    for file, line, record in _records(source, languages, seed, report):
        try:
            if isinstance(record, BadRecord):
                raise record
            row = check_record(record, defaults)
            if row["source_id"] is not None:
                # 64 bits are enough here: a false alarm among 10^8 documents has a chance of 0.03 %.
                key = int.from_bytes(hashlib.blake2b(row["source_id"].encode(), digest_size=8).digest())
                if key in seen:
                    raise BadRecord("duplicate-id", f"the id '{row['source_id'][:80]}' was used before")
                seen.add(key)
        except BadRecord as fault:
            report(Fault(source.name, file, line, fault.reason, fault.detail))
            continue
        if row["source_id"] is None:
            row["source_id"] = f"{file}:{line}"
        row["file"], row["line"] = file, line
        yield row


def _records(
    source: Source, languages: tuple[str, ...], seed: int, report: Callable[[Fault], None]
) -> Iterator[tuple[str, int, object]]:
    """Unchecked records with their place; a record that cannot even be parsed comes as a BadRecord."""
    if source.kind == "atlas":
        yield from _atlas_records(languages, seed)
        return
    reader = {"jsonl": jsonl_records, "parquet": _parquet_records, "text": _text_records}[source.kind]
    for path, name in find_files(source):
        try:
            for line, record in reader(path):
                yield name, line, record
        except BrokenFile as error:
            report(Fault(source.name, name, 0, "broken-file", str(error)))
        except DamagedFile as error:
            raise InputError(f"source '{source.name}': {error}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"source '{source.name}': {path} cannot be read ({reason}).") from None


def _atlas_records(languages: tuple[str, ...], seed: int) -> Iterator[tuple[str, int, object]]:
    from hanse.data import atlas

    for number, document in enumerate(atlas.documents(languages, seed), start=1):
        yield "atlas", number, document


def jsonl_records(path: Path) -> Iterator[tuple[int, object]]:
    """(line, JSON value) for each line that is not blank; a line that cannot be parsed comes as a BadRecord.

    Raises:
        BrokenFile: the compression breaks off.
        DamagedFile: the content does not match its checksum.
        OSError: the file cannot be opened or read.
    """
    with open(path, "rb") as file:
        stream = _decompressed(file, path)
        line_number = 0
        while True:
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
                is_too_long = len(line) > MAX_LINE_BYTES
                rest = line
                while is_too_long and rest and not rest.endswith(b"\n"):
                    rest = stream.readline(MAX_LINE_BYTES)
            except gzip.BadGzipFile as error:
                if "CRC" in str(error) or "length" in str(error):
                    raise _damaged(path, error) from None
                raise BrokenFile(f"what follows line {line_number} is not compressed data: {error}") from None
            except (EOFError, zlib.error) as error:
                raise BrokenFile(
                    f"the compressed file breaks off or is damaged after line {line_number}: {error}"
                ) from None
            if not line:
                return
            line_number += 1
            if line_number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if is_too_long:
                yield line_number, BadRecord("too-long", f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
            elif line.strip():
                yield line_number, _parsed(line)


def _parsed(line: bytes) -> object:
    try:
        return parse_line(line)
    except BadRecord as fault:
        return fault


def _parquet_records(path: Path) -> Iterator[tuple[int, object]]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise BrokenFile(f"the Parquet file has no column 'text'; its columns are {', '.join(names[:20])}")
            columns = [name for name in dict.fromkeys(names) if name in KNOWN or name == "license"]
            row_number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                for record in _batch_records(batch):
                    row_number += 1
                    yield row_number, record
    except (pa.ArrowException, ValueError) as error:
        raise BrokenFile(f"the Parquet file is damaged: {str(error).splitlines()[0]}") from None


def _batch_records(batch: pa.RecordBatch) -> Iterator[object]:
    """Rows as dictionaries. Strings are decoded one by one: a broken one costs its row, not its batch."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        columns[name] = column.to_pylist()
    for index in range(batch.num_rows):
        try:
            yield {
                name: value.decode("utf-8") if isinstance(value := values[index], bytes) else value
                for name, values in columns.items()
            }
        except UnicodeDecodeError:
            yield BadRecord("not-utf8", "a string of the row is not UTF-8")


def _text_records(path: Path) -> Iterator[tuple[int, object]]:
    """One document: the whole file, titled by its name."""
    with open(path, "rb") as file:
        content = file.read(MAX_LINE_BYTES + 1)
    if len(content) > MAX_LINE_BYTES:
        yield 0, BadRecord("too-long", f"the file is larger than {MAX_LINE_BYTES // 2**20} MiB; split it")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield 0, BadRecord("not-utf8", f"byte {error.start + 1} is not UTF-8")
        return
    yield 1, {"text": text, "title": path.stem}


def _decompressed(file: IO[bytes], path: Path) -> IO[bytes]:
    """The file's content; compression is told by the first bytes, and a name that promises it has to keep it."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP_MAGIC):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic.startswith(_ZSTD_MAGIC):
        return io.BufferedReader(_ZstdFile(file, path), buffer_size=2**17)
    if path.suffix in (".gz", ".zst") and magic:
        raise BrokenFile(f"the file is named {path.suffix}, but its content is not compressed that way")
    return file


class _ZstdFile(io.RawIOBase):
    """Zstandard frames as one stream. The library's own stream reader takes a cut-off frame for the end of the file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        import zstandard

        self._file, self._path = file, path
        self._error = zstandard.ZstdError
        self._context = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._input:
                self._input = self._file.read(2**13)  # little, because 4 bytes may unfold to 128 KiB
                if not self._input:
                    if self._frame is not None:
                        raise EOFError("the last Zstandard frame has no end")
                    return 0
            self._frame = self._frame or self._context.decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(self._input))
            except self._error as error:
                if "checksum" in str(error):
                    raise _damaged(self._path, error) from None
                raise EOFError(str(error)) from None
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


def _damaged(path: Path, error: Exception) -> DamagedFile:
    return DamagedFile(f"{path} is damaged ({error}), so its text cannot be trusted; fetch it again.")


def _fixed_part(pattern: str) -> Path:
    """The folders before the first wildcard."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed]) if fixed else Path()
