"""Datasets of a hub, from a small server on loopback that speaks the few routes the client uses."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from reading import collect

from hanse import recipe
from hanse.data import sources
from hanse.data.sources import hub
from hanse.errors import InputError
from hanse.recipe import Source

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef" * 2 + "01234567"


def parquet(*texts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink)
    return sink.getvalue()


class Hub(ThreadingHTTPServer):
    """One dataset at one commit. `lies` are files that are served with another content than the listing says."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.files, self.lies, self.asked = files, dict[str, bytes](), list[str]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Routes(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        tree = re.fullmatch(r"/api/datasets/lab/books/tree/(\w+)", path)
        file = re.fullmatch(r"/datasets/lab/books/resolve/(\w+)/(.+)", path)
        match = tree or file
        if not match:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif match[1] != COMMIT:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif tree:
            listed = [self.entry(name, content) for name, content in self.server.files.items()]
            self.answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        else:
            content = self.server.lies.get(match[2], self.server.files[match[2]])
            self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        large = {"lfs": {"oid": digest, "size": len(content), "pointerSize": 130}} if name.endswith(".parquet") else {}
        return {"type": "file", "path": name, "size": len(content), "oid": "f" * 40, **large}

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(
        {"README.md": b"# Books", "data/b.parquet": parquet("drei"), "data/a.parquet": parquet("eins", "zwei")}
    ) as hub_:
        thread = threading.Thread(target=hub_.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", hub_.address)
        monkeypatch.setenv("HANSE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub_
        hub_.shutdown()
        thread.join()


def dataset(**fields: Any) -> Source:
    return Source(
        **{"name": "books", "kind": "hub", "path": "lab/books", "revision": COMMIT, "licence": "MIT", **fields}
    )


def test_a_dataset_is_fetched_at_its_commit_and_read_like_files(server: Hub) -> None:
    rows, faults = collect(dataset())
    assert not faults
    assert [(row["file"], row["line"], row["text"]) for row in rows] == [
        ("data/a.parquet", 1, "eins"), ("data/a.parquet", 2, "zwei"), ("data/b.parquet", 1, "drei"),
    ]  # fmt: skip
    assert not any("README" in path for path in server.asked)


def test_the_digests_are_recorded_so_that_coreutils_can_check_them(server: Hub, tmp_path: Path) -> None:
    found = sources.digests(dataset())
    assert found == {
        name: hashlib.sha256(server.files[name]).hexdigest() for name in ("data/a.parquet", "data/b.parquet")
    }
    folder = tmp_path / "cache" / "hub" / "lab" / "books" / COMMIT
    assert (folder / "SHA256SUMS").read_text() == "".join(f"{digest}  {name}\n" for name, digest in found.items())
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in found.items())


def test_what_was_fetched_once_is_never_asked_for_again(server: Hub) -> None:
    first, _ = collect(dataset())
    server.asked.clear()
    again, _ = collect(dataset())
    assert again == first
    assert not server.asked


def test_a_file_that_is_not_what_the_hub_lists_is_refused_and_fetched_anew(server: Hub) -> None:
    server.lies["data/b.parquet"] = parquet("vier")
    with pytest.raises(InputError, match=r"source 'books': data/b\.parquet of lab/books arrived with another content"):
        collect(dataset())
    server.lies.clear()
    rows, _ = collect(dataset())
    assert [row["text"] for row in rows] == ["eins", "zwei", "drei"]


@pytest.mark.parametrize("name", ["../../escaped.parquet", "/escaped.parquet", "a\nb.parquet"])
def test_a_name_that_leads_out_of_the_folder_is_refused(server: Hub, tmp_path: Path, name: str) -> None:
    server.files[name] = parquet("fünf")
    with pytest.raises(InputError, match="which leads elsewhere"):
        collect(dataset())
    assert not list(tmp_path.rglob("*escaped*"))


def test_files_of_two_formats_need_a_choice(server: Hub) -> None:
    server.files["a.jsonl"] = b'{"text": "f\xc3\xbcnf"}\n'
    with pytest.raises(InputError, match=r"both Parquet and JSON lines; say which with files"):
        collect(dataset())
    rows, _ = collect(dataset(files="*.jsonl"))
    assert [row["text"] for row in rows] == ["fünf"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"revision": "f" * 40}, "has no commit ffffffff"),
        ({"path": "lab/poems"}, "the hub holds no dataset lab/poems"),
        ({"files": "*.csv"}, r'holds no Parquet or JSON lines file that fits files = "\*\.csv"'),
    ],
)
def test_what_the_hub_does_not_hold_is_one_sentence(server: Hub, fields: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=rf"^source 'books': .*{says}") as caught:
        collect(dataset(**fields))
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_sentence(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again for 20 s
    with pytest.raises(InputError, match=r"^source 'books': lab/books at 0123456789ab could not be fetched") as caught:
        collect(dataset())
    assert "\n" not in str(caught.value)


def test_without_the_client_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    monkeypatch.setenv("HANSE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'hanse\[hub\]'"):
        hub.find_files(dataset())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"revision": "main"}, "a branch or tag can mean another text tomorrow"),
        ({"revision": ""}, "a hub dataset needs the commit"),
        ({"path": "books"}, "write owner/name"),
        ({"path": "../lab/books"}, "write owner/name"),
        ({"kind": "parquet", "files": "*.parquet"}, "belongs to kind hub"),
    ],
)
def test_a_dataset_without_owner_or_commit_is_refused_with_the_reason(fields: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        dataset(**fields)


def test_the_name_of_a_dataset_is_not_taken_for_a_path(tmp_path: Path) -> None:
    text = f'name = "r"\n[[source]]\nname = "books"\nkind = "hub"\npath = "lab/books"\nrevision = "{COMMIT}"\n'
    (tmp_path / "r.toml").write_text(text)
    assert recipe.load(tmp_path / "r.toml").source[0].path == "lab/books"
