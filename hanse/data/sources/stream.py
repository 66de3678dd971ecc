"""The bytes of a file, decompressed on the way (gzip, Zstandard, xz), in bounded memory.

Ours and not the libraries' own file objects for three reasons: Zstandard's takes a cut-off frame for the end of the
file, none of them stops at a decompression bomb, and gzip's hands out 8 KiB at a time.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hanse.data.sources.records import BrokenFile, DamagedFile

BUFFER_BYTES = 2**17
# Beyond BOMB_BYTES of output no honest text is this repetitive: corpora of web pages compress 4 to 40 times.
BOMB_BYTES = 256 * 2**20
BOMB_RATIO = 400
XZ_MEMORY = 256 * 2**20  # of the dictionary that a file may ask for; xz -9 asks for 65 MiB


@dataclass(frozen=True)
class _Format:
    magic: bytes
    suffixes: tuple[str, ...]
    step_bytes: int  # of input at a time: little, where a few bytes may unfold to many
    frame: Callable[[], Any]


def _gzip_frame() -> Any:
    return zlib.decompressobj(wbits=31)


def _zstd_frame() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


def _xz_frame() -> Any:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


_FORMATS = (
    _Format(b"\x1f\x8b", (".gz", ".tgz"), 2**14, _gzip_frame),  # 1:1032 at most, so 16 MiB a step
    _Format(b"\x28\xb5\x2f\xfd", (".zst",), 2**11, _zstd_frame),  # 4 bytes to 128 KiB: 64 MiB
    _Format(b"\xfd7zXZ\x00", (".xz",), 2**9, _xz_frame),
)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed.

    Raises:
        BrokenFile: the name promises a compression that the content does not have.
        OSError: the file cannot be opened.
    """
    with io.BufferedReader(io.FileIO(path), BUFFER_BYTES) as file:
        yield decompressed(file, str(path))


def decompressed(file: io.BufferedReader[Any], name: str) -> IO[bytes]:
    """A stream without its compression, which the first bytes tell; a name that promises one has to keep it."""
    magic = file.peek(8)[:8]
    for format_ in _FORMATS:
        if magic.startswith(format_.magic):
            return io.BufferedReader(_Decompressed(file, format_, name), BUFFER_BYTES)
    promised = next((suffix for format_ in _FORMATS for suffix in format_.suffixes if name.endswith(suffix)), None)
    if promised and magic:
        raise BrokenFile(f"the file is named {promised}, but its content is not compressed that way")
    return file


class _Decompressed(io.RawIOBase):
    """Frames, one after the other, as one stream. A read raises BrokenFile or DamagedFile."""

    def __init__(self, file: IO[bytes], format_: _Format, name: str) -> None:
        self._file, self._format, self._name = file, format_, name
        self._frame: Any = None
        self._is_first = True
        self._input = b""
        self._output = memoryview(b"")
        self._taken = self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._input and not self._fill():
                return 0
            self._unfold()
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _fill(self) -> bool:
        self._input = self._file.read(self._format.step_bytes)
        self._taken += len(self._input)
        if not self._input and self._frame is not None:
            raise BrokenFile("the compressed file breaks off")
        return bool(self._input)

    def _unfold(self) -> None:
        """Turn the input at hand into output."""
        if self._frame is None:
            if not self._is_first:
                self._input = self._input.lstrip(b"\0")  # padding, as tapes and some tools leave it
                if not self._input:
                    return
            self._frame = self._format.frame()
        try:
            output = self._frame.decompress(self._input)
        except Exception as error:  # zlib.error, ZstdError, LZMAError: they share no base, and two load lazily
            if any(words in str(error) for words in ("data check", "length check", "checksum")):
                raise DamagedFile(
                    f"{self._name} is damaged ({error}), so its text cannot be trusted; fetch it again."
                ) from None
            raise BrokenFile(f"the compressed file is damaged or ends in something else ({error})") from None
        self._is_first = False
        self._input = b""
        self._output = memoryview(output)
        self._given += len(output)
        if self._given > BOMB_BYTES and self._given > BOMB_RATIO * self._taken:
            raise BrokenFile(f"the file unfolds to more than {BOMB_RATIO} times its size, a decompression bomb")
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
