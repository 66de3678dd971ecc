"""Writing a model folder for other people's engines: as a GGUF file, or as another Hugging Face folder.

Whatever is written has a temporary name until it is whole, and is gone if it never becomes so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.errors import InputError
from hanse.release.export import CONFIG, TOKENIZER, read_json
from hanse.store.digest import RECORD, SUMS, parse_sums, sha256_file, sha256_text
from hanse.store.disk import fsync_file, fsync_folder, fsync_tree, full_disk

if TYPE_CHECKING:
    from hanse.model.gguf import Facts, Kind, Written

Progress = Callable[[str, int, int | None], None]
#: What a converted folder takes over as it is; signature, sums and records speak of the bytes of the original.
_KEPT = (
    TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json",
    "LICENSE", "ATTRIBUTION.md",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a model comes from, as far as its folder says.

    Attributes:
        name: `kind/name/version` of its record, else the folder's name.
        licence: as the card has it, in the Hub's spelling; empty without a card.
        languages: of the card.
        digest: SHA-256 of `SHA256SUMS`, which the files were held against; empty without sums.
    """

    name: str
    licence: str
    languages: tuple[str, ...]
    digest: str


def write_gguf(
    folder: Path, out: Path, *, kind: Kind, force: bool = False, progress: Progress | None = None
) -> Written:
    """Write a model folder or release as one GGUF file, with its tokenizer, chat template, licence and digest inside.

    Args:
        folder: of a `deepseek_v3` or `apertus` model.
        out: the file to make.
        kind: "f32", "bf16", "q8_0", "q4_k", "q5_k" or "q6_k".
        force: replace `out` if it is there.
        progress: called with a phrase, the bytes done, and their total.

    Raises:
        InputError: the folder cannot be read or written so, does not match its sums, `out` is there, or has no room.
    """
    check_gguf()
    with placed(folder, out, force=force) as temporary:
        return fill_gguf(folder, temporary, kind=kind, source=source_of(folder), progress=progress)


def fill_gguf(
    folder: Path,
    out: Path,
    *,
    kind: Kind,
    source: Source | None = None,
    sends_every_token: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write the file itself; see `write_gguf` and `vocabulary.read_vocabulary`."""
    check_gguf()
    from hanse.model import gguf
    from hanse.model.config.folder import read_values
    from hanse.release.vocabulary import read_vocabulary

    config = gguf.open_native(folder)
    vocabulary = read_vocabulary(
        folder, config.vocab_size, token_ids=read_values(folder), sends_every_token=sends_every_token
    )
    facts = _facts(source) if source else None
    return gguf.write(folder, out, vocabulary=vocabulary, kind=kind, facts=facts, progress=progress)


def write_folder(folder: Path, out: Path, *, with_mtp: bool, force: bool = False) -> None:
    """Write a model folder again in the Hugging Face layout, with its multi-token block or without.

    vLLM and SGLang draft with the block; MLX refuses a folder that has one. The weights keep their precision. What is
    written is a copy for an engine and no release: it has no signature, no sums and no records.

    Args:
        folder: of a model of any family.
        out: the folder to make.
        with_mtp: keep the block.
        force: replace `out` if it is there.

    Raises:
        InputError: the folder cannot be read, does not match its sums, has no block to keep, `out` is there, no room.
    """
    source_of(folder)
    with placed(folder, out, force=force, is_folder=True) as temporary:
        import torch

        from hanse.model import hf

        values = read_json(folder / CONFIG)
        model = hf.load(folder, with_mtp=with_mtp)
        if with_mtp and model.mtp is None:
            raise InputError(f"{folder}: has no multi-token block that --with-mtp could keep; leave the option out.")
        precision = values.get("dtype") or values.get("torch_dtype") or "float32"
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(str(precision), torch.float32)
        ids = {key: values.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        hf.save(model, temporary, with_mtp=with_mtp, token_ids=ids, dtype=dtype)  # type: ignore[arg-type]
        for name in _KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, temporary / name)


def check_gguf() -> None:
    """Raise InputError where the package that writes GGUF files is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            "GGUF files are written by the package gguf, which is missing: pip install 'hanse[llama-cpp]'."
        )


def source_of(folder: Path) -> Source:
    """What a folder says about itself, its files held against its sums.

    Raises:
        InputError: a file of the model that is not the one its `SHA256SUMS` names.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; name a model folder, or a release by its name in the store.")
    card = _front_matter(folder / "README.md")
    licence = re.search(r"^license_name: *(.+)$", card, re.MULTILINE) or re.search(r"^license: *(.+)$", card, re.M)
    languages = re.findall(r'^- "([a-z]{2,3})"$', card, re.MULTILINE)
    return Source(
        name=_name(folder),
        licence=licence[1].strip().strip('"') if licence else "",
        languages=tuple(languages),
        digest=_checked_digest(folder),
    )


def _facts(source: Source) -> Facts:
    from hanse.model.gguf import Facts

    further = {"hanse.source": source.name}
    if source.digest:
        further["hanse.source_digest"] = f"sha256:{source.digest}"
    return Facts(name=source.name, licence=source.licence, languages=source.languages, further=further)


def _front_matter(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text.split("\n---\n", 1)[0] if text.startswith("---\n") else ""


def _name(folder: Path) -> str:
    try:
        name = json.loads((folder / RECORD).read_bytes())["subject"][0]["name"]
    except (OSError, ValueError, LookupError, TypeError):
        name = None
    return name if isinstance(name, str) and name else folder.resolve().name


def _checked_digest(folder: Path) -> str:
    """The digest of a folder's sums, after holding the model's own files against them."""
    path = folder / SUMS
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    sums = parse_sums(text)
    weights = [name for name in sums if name.endswith(".safetensors") and "/" not in name]
    names = [*weights, *(name for name in (CONFIG, TOKENIZER) if name in sums)]
    for name in names:
        if not (folder / name).is_file() or sha256_file(folder / name) != sums[name]:
            raise InputError(f"{folder} does not match its {SUMS}: {name} changed. Copy the folder again.")
    return sha256_text(text) if weights else ""


@contextmanager
def placed(folder: Path, out: Path, *, force: bool, is_folder: bool = False) -> Iterator[Path]:
    """A temporary path beside `out` that takes its place at the end, whole and on the disk, or is gone.

    Raises:
        InputError: `out` is there without `force`, is of the other kind, lies in `folder`, or cannot be written.
    """
    _check_place(folder, out, force=force, is_folder=is_folder)
    try:
        room = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written to ({error.strerror}); choose another place.") from error
    temporary = room / out.name
    try:
        if is_folder:
            temporary.mkdir()
        yield temporary
        fsync_tree(temporary) if is_folder else fsync_file(temporary)
        if is_folder and out.exists():
            os.rename(out, room / "replaced")  # a folder with content cannot be renamed over
        os.replace(temporary, out)
        fsync_folder(out.parent)
    except BaseException as error:
        if (told := full_disk(error, out.parent, out.name, room)) is not None:
            raise told from error
        if isinstance(error, OSError):
            raise InputError(f"{out}: cannot be written ({error.strerror}); choose another place.") from error
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _check_place(folder: Path, out: Path, *, force: bool, is_folder: bool) -> None:
    if not out.parent.is_dir():
        raise InputError(f"{out}: its folder does not exist; make it first.")
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: lies in the model folder itself, which would no longer be what was released.")
    if folder.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{out}: holds the model folder; choose another place.")
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() != is_folder or out.is_symlink():
        raise InputError(f"{out}: is there and is no {'folder' if is_folder else 'file'}; choose another name.")
    if not force:
        raise InputError(f"{out}: is there already; give --force to replace it.")
