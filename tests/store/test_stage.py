"""Building artifacts: whole or not at all, found again, and not confused with one another."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hanse.errors import InputError
from hanse.store import lock as locks
from hanse.store import record as records
from hanse.store.stage import Artifact, Store, Work


def fill(text: str = "a"):
    """A stage that writes two files and one byproduct."""

    def make(work: Work) -> None:
        (work.folder / "sub").mkdir()
        (work.folder / "sub" / "text").write_text(text)
        (work.folder / "counts.json").write_text("{}")
        (work.run / "metrics.jsonl").write_text("{}\n")
        work.note(documents=3, flop=10**20)

    return make


def never(work: Work) -> None:
    raise AssertionError("the stage ran, though its artifact is there")


def build(store: Store, ref: str, *, definition=None, inputs=None, make=None):
    return store.build(*ref.split("/"), definition=definition or {"seed": 1}, inputs=inputs or {}, make=make or fill())


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "store")


def visible(store: Store) -> list[str]:
    """Everything in the store that is no hidden book-keeping."""
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.glob("[!.]*") if p.name != "store.json")


def test_an_artifact_has_files_sums_and_record(store):
    built = build(store, "dataset/atlas/1")
    assert built.state == "made"
    artifact = built.artifact
    assert artifact.ref == "dataset/atlas/1" and artifact == store.find("dataset/atlas")
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=artifact.path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "counts.json: OK\nsub/text: OK\n"
    sums = subprocess.run(["sha256sum", "SHA256SUMS"], cwd=artifact.path, capture_output=True, text=True).stdout
    assert sums.split()[0] == artifact.digest
    assert not (store.root / ".work" / "dataset").exists()


def test_the_record_is_an_in_toto_statement_that_the_reference_library_accepts(store):
    source = build(store, "dataset/atlas/1").artifact
    artifact = build(store, "shards/atlas/1", inputs={"text": source}, make=fill("b")).artifact
    statement = pytest.importorskip("in_toto_attestation.v1.statement")
    protobuf = pytest.importorskip("google.protobuf.json_format")
    parsed = protobuf.Parse((artifact.path / "step.json").read_text(), statement.spb.Statement())
    statement.Statement.copy_from_pb(parsed).validate()
    assert parsed.subject[0].name == "shards/atlas/1" and parsed.subject[0].digest["sha256"] == artifact.digest
    assert [subject.name for subject in parsed.subject[1:]] == ["counts.json", "sub/text"]
    run = artifact.record["predicate"]["runDetails"]
    assert [item["name"] for item in run["byproducts"]] == ["run/metrics.jsonl"]
    assert artifact.facts == {"documents": 3, "flop": "1" + "0" * 20}
    (dependency,) = artifact.record["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert dependency == {
        "name": "dataset/atlas/1",
        "digest": {"sha256": source.digest},
        "annotations": {"role": "text", "record": records.sha256_text((source.path / "step.json").read_text())},
    }
    assert "dataset/atlas/1" in records.summary(artifact)


def test_a_record_names_no_host_user_or_folder(store):
    text = (build(store, "dataset/atlas/1").artifact.path / "step.json").read_text()
    for word in (os.uname().nodename, str(store.root), str(Path.home())):
        assert word not in text


def test_equal_content_has_an_equal_digest_whatever_the_run_recorded(tmp_path):
    first, second = (build(Store.open(tmp_path / name), "dataset/atlas/1").artifact for name in "ab")
    assert first.digest == second.digest and first.record_digest != second.record_digest


def test_an_unchanged_definition_is_found_again_in_any_version(store):
    artifact = build(store, "dataset/atlas/1").artifact
    for version in ("1", "2"):
        again = build(store, f"dataset/atlas/{version}", make=never)
        assert (again.state, again.artifact) == ("unchanged", artifact)
    assert build(store, "dataset/other/1").state == "made"


def test_a_changed_definition_is_not_rebuilt_but_shown(store):
    inputs = {"tokenizer": build(store, "tokenizer/a/1", make=fill("t1")).artifact}
    old = {
        "pretrain": {"learning_rate": 0.01, "steps": 5},
        "languages": ["da", "de"],
        "source": [{"name": "s", "k": 1}],
    }
    new = {"pretrain": {"learning_rate": 0.02, "steps": 5}, "languages": ["da"], "source": [{"name": "s", "k": 2}]}
    artifact = build(store, "model/m/1", definition=old, inputs=inputs).artifact
    others = {"tokenizer": build(store, "tokenizer/b/1", make=fill("t2")).artifact}
    built = build(store, "model/m/1", definition={**new, "seed": 2}, inputs=others, make=never)
    assert (built.state, built.artifact) == ("drifted", artifact)
    assert built.drift == [
        "[pretrain] learning_rate: 0.01 -> 0.02",
        'languages: ["da", "de"] -> ["da"]',
        "[source] s.k: 1 -> 2",
        "seed: none -> 2",
        f"input tokenizer: {inputs['tokenizer'].digest[:12]} -> {others['tokenizer'].digest[:12]}",
    ]
    assert build(store, "model/m/2", definition=new, inputs=others).state == "made"


def test_a_drift_between_true_and_one_is_shown(store):
    build(store, "model/m/1", definition={"compile": 1})
    assert build(store, "model/m/1", definition={"compile": True}, make=never).drift == ["compile: 1 -> true"]


def test_the_newest_version_counts_ten_after_nine(store):
    for number in (9, 10, 1):
        build(store, f"model/m/{number}", definition={"n": number}, make=fill(str(number)))
    assert store.find("model/m").version == "10"
    assert [artifact.version for artifact in store.artifacts()] == ["1", "9", "10"]


@pytest.mark.parametrize(
    "ref",
    ["model/../x", "../../etc/passwd", "model/.x/1", "model/x y/1", "model//1", "/model/x", "model", "m/x/1/2", ""],
)
def test_a_name_that_is_no_name_is_refused(store, ref):
    with pytest.raises(InputError):
        store.find(ref)
    if ref.count("/") == 2:
        with pytest.raises(InputError):
            build(store, ref, make=never)


def test_a_missing_artifact_suggests_near_names(store):
    build(store, "model/atlas-chat/1")
    with pytest.raises(InputError, match="Did you mean model/atlas-chat"):
        store.find("model/atlas-caht")
    with pytest.raises(InputError, match="these kinds: model"):
        store.find("shards/zzz")


def test_a_stage_that_fails_leaves_nothing_but_scratch(store):
    def fails(work: Work) -> None:
        (work.folder / "half").write_text("half")
        (work.scratch / "step-7").write_text("seven")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        build(store, "model/m/1", make=fails)
    assert visible(store) == []
    work = store.root / ".work"
    assert [p.name for p in work.rglob("*") if p.is_file()] == ["step-7"]

    def resumes(work: Work) -> None:
        assert (work.scratch / "step-7").read_text() == "seven"
        fill()(work)

    assert build(store, "model/m/1", make=resumes).state == "made"
    assert list(work.rglob("*")) == []


def test_scratch_of_another_definition_is_never_resumed(store):
    def stops(work: Work) -> None:
        (work.scratch / "step-7").write_text("seven")
        raise KeyboardInterrupt

    def begins(work: Work) -> None:
        assert list(work.scratch.iterdir()) == []
        assert not list(store.root.rglob("step-7"))
        fill()(work)

    with pytest.raises(KeyboardInterrupt):
        build(store, "model/m/1", definition={"seed": 1}, make=stops)
    assert build(store, "model/m/1", definition={"seed": 2}, make=begins).state == "made"


@pytest.mark.parametrize("name", ["SHA256SUMS", "step.json", "model.sig"])
def test_a_stage_may_not_write_what_belongs_to_the_store(store, name):
    with pytest.raises(ValueError, match="belongs to the store"):
        build(store, "model/m/1", make=lambda work: (work.folder / name).write_text("x"))
    assert visible(store) == []


def test_a_stage_that_writes_nothing_or_a_link_is_refused(store):
    with pytest.raises(ValueError, match="no file"):
        build(store, "model/m/1", make=lambda work: None)
    with pytest.raises(InputError, match="link"):
        build(store, "model/m/1", make=lambda work: (work.folder / "x").symlink_to("/etc/passwd"))
    assert visible(store) == []


def test_a_seal_is_written_over_everything_else(store):
    def sealed(work: Work) -> None:
        fill()(work)
        work.seal("model.sig", lambda folder, digests: (folder / "model.sig").write_text(json.dumps(digests)) and None)

    artifact = build(store, "release/m/1", make=sealed).artifact
    digests = json.loads((artifact.path / "model.sig").read_text())
    assert sorted(digests) == ["SHA256SUMS", "counts.json", "run/metrics.jsonl", "step.json", "sub/text"]
    assert all(records.sha256_text((artifact.path / name).read_text()) == digest for name, digest in digests.items())
    assert records.seals_of(artifact.record) == ("model.sig",)


@pytest.mark.parametrize("tamper", ["change", "remove", "add", "same size and time"])
def test_a_tampered_artifact_is_neither_used_nor_built_upon(store, tamper):
    artifact = build(store, "dataset/atlas/1").artifact
    target = artifact.path / "sub" / "text"
    while time.time_ns() - target.stat().st_ctime_ns < 100_000_000:
        pass  # as young as the clock's tick, a digest would not be kept
    build(store, "shards/a/1", inputs={"text": artifact})  # fills the cache of digests
    status = target.stat()
    if tamper == "remove":
        target.unlink()
    elif tamper == "add":
        (artifact.path / "extra").write_text("x")
    else:
        target.write_text("b" if tamper == "same size and time" else "longer")
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    named = "extra was added" if tamper == "add" else "sub/text"
    with pytest.raises(InputError, match=named):
        build(store, "dataset/atlas/1", make=never)
    with pytest.raises(InputError, match=named):
        build(store, "shards/a/2", definition={"seed": 9}, inputs={"text": artifact}, make=never)


def test_a_damaged_record_is_named_and_not_built_over(store):
    artifact = build(store, "dataset/atlas/1").artifact
    (artifact.path / "step.json").write_text("{")
    with pytest.raises(InputError, match="dataset/atlas/1 is damaged"):
        store.find("dataset/atlas")
    with pytest.raises(InputError, match="dataset/atlas/1 is damaged"):
        build(store, "dataset/atlas/1", make=never)
    assert list(store.artifacts()) == []


def test_another_format_is_refused_with_both_versions(tmp_path):
    (tmp_path / "store.json").write_text('{"format": "hanse store", "version": 7}')
    with pytest.raises(InputError, match=r"format 7, but this Hanse reads format 1"):
        Store.open(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Store.open(tmp_path)


def test_a_folder_that_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_text("x")
    with pytest.raises(InputError, match="is not a store"):
        Store.open(tmp_path)
    with pytest.raises(InputError):
        Store.open(tmp_path / "holiday.jpg")
    with pytest.raises(InputError, match="no store here"):
        Store.open(tmp_path / "new", create=False)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


def test_definitions_that_have_no_json_are_refused_before_anything_runs(store):
    with pytest.raises(TypeError, match=r"definition\.source\.path: PosixPath"):
        build(store, "model/m/1", definition={"source": {"path": Path("x")}}, make=never)


def test_a_long_seed_is_part_of_a_definition(store):
    assert build(store, "model/m/1", definition={"seed": 2**62}).state == "made"
    assert build(store, "model/m/1", definition={"seed": 2**62}, make=never).state == "unchanged"
    assert build(store, "model/m/1", definition={"seed": 2**62 + 1}, make=never).state == "drifted"


# --- other processes ---------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from pathlib import Path
from hanse.store import stage, work
from hanse.store.stage import Store

point, root = sys.argv[1], Path(sys.argv[2])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(module, name):
    real = getattr(module, name)
    def dying(*arguments, **named):
        if point == name:
            die()
        result = real(*arguments, **named)
        if point == "after " + name:
            die()
        return result
    setattr(module, name, dying)

for name in ("fsync_tree", "sha256_file", "sums_text"):
    before(work, name)
before(stage, "fsync_folder")
before(stage.os, "rename")
before(work.records, "statement")
before(stage.Store, "_forget_work")

def make(work):
    (work.folder / "a").write_text("a" * 1000)
    (work.scratch / "checkpoint").write_text("7")
    if point == "make":
        die()
    (work.folder / "b").write_text("b" * 1000)

store = Store.open(root)
print(store.build("model", "m", "1", definition={"seed": 1}, inputs={}, make=make).state)
"""
POINTS = [
    "make", "sha256_file", "sums_text", "statement", "after statement", "fsync_tree", "after fsync_tree", "rename",
    "after rename", "fsync_folder", "_forget_work", "after _forget_work",
]  # fmt: skip


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("point", POINTS)
def test_kill_9_leaves_the_artifact_whole_or_not_at_all(tmp_path, point):
    root = tmp_path / "store"
    done = run(PROGRAM, point, root)
    assert done.returncode == -signal.SIGKILL, done.stderr
    place = root / "model" / "m" / "1"
    if place.exists():
        assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=place).returncode == 0
        assert Store.open(root).find("model/m").ref == "model/m/1"
    else:
        assert list(Store.open(root).artifacts()) == []
    again = run(PROGRAM, "none", root)
    assert again.stdout.strip() == ("unchanged" if point in POINTS[POINTS.index("after rename") :] else "made")
    assert sorted(os.listdir(place)) == ["SHA256SUMS", "a", "b", "step.json"]
    assert list((root / ".work").rglob("*")) == []


HOLDER = """
import sys
from pathlib import Path
from hanse.store.stage import Store

def make(work):
    (work.folder / "a").write_text("a")
    print("inside", flush=True)
    sys.stdin.readline()

store = Store.open(Path(sys.argv[1]))
with store.lock("atlas", "run recipes/atlas.toml"):
    store.build("model", "m", "1", definition={"seed": 1}, inputs={}, make=make)
"""


def hold(root: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "inside\n"
    return holder


def test_a_second_run_is_told_who_is_at_work_and_on_what(tmp_path):
    with hold(tmp_path / "store") as holder:
        store = Store.open(tmp_path / "store")
        said = re.compile(rf"process {holder.pid} is at work here \(building model/m/1\)")
        with pytest.raises(InputError, match=said), store.lock("atlas"):
            pass
        with pytest.raises(InputError, match=said):
            build(store, "model/m/1", make=never)
        assert build(store, "model/other/1").state == "made"
        holder.communicate("\n")
    assert holder.returncode == 0
    with store.lock("atlas"):
        assert build(store, "model/m/1", make=never).state == "unchanged"


def test_whoever_waits_for_a_lock_gets_it_when_the_other_process_lets_go(tmp_path):
    def take() -> bool:
        begun.set()
        with locks.hold(tmp_path / "store" / ".locks" / "atlas.lock", "waiting", waits=True):
            return True

    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool, hold(tmp_path / "store") as holder:
        taken = pool.submit(take)
        assert begun.wait(300) and not taken.done()
        holder.communicate("\n")
        assert taken.result(300)


def test_a_lock_ends_with_its_process_even_by_kill_9(tmp_path):
    with hold(tmp_path / "store") as holder:
        holder.kill()
        assert holder.wait(300) == -signal.SIGKILL
    store = Store.open(tmp_path / "store")
    with store.lock("atlas"):
        assert build(store, "model/m/1").state == "made"


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    store = Store.open(tmp_path / "store")
    ready, wait = os.pipe(), os.pipe()
    with store.lock("atlas"):
        worker = os.fork()
        if worker == 0:
            os.close(wait[1])
            os.write(ready[1], b"x")
            os.read(wait[0], 1)
            os._exit(0)
        assert os.read(ready[0], 1) == b"x"
    try:
        with store.lock("atlas"):
            pass
    finally:
        for descriptor in (*ready, *wait):
            os.close(descriptor)
        os.waitpid(worker, 0)


# --- full disks --------------------------------------------------------------------------------------------------


def test_a_full_disk_says_so_and_leaves_only_scratch(small_disk):
    store = Store.open(small_disk / "store")
    size = 2_000_000

    def make(work: Work) -> None:
        (work.scratch / "checkpoint").write_text("7")
        (work.folder / "weights").write_bytes(b"x" * size)

    with pytest.raises(InputError, match=r"no space left while making model/m/1, which needs more than .* is free"):
        build(store, "model/m/1", make=make)
    assert visible(store) == []
    assert [p.name for p in (store.root / ".work").rglob("*") if p.is_file()] == ["checkpoint"]
    size = 1000
    assert build(store, "model/m/1", make=make).state == "made"


def test_a_disk_that_fills_while_recording_leaves_nothing(small_disk):
    store = Store.open(small_disk / "store")

    def make(work: Work) -> None:
        (work.folder / "a").write_text("a")
        with pytest.raises(OSError), (work.folder / "fill").open("wb", buffering=0) as stream:
            while stream.write(b"x" * 4096):
                pass

    with pytest.raises(InputError, match="no space left"):
        build(store, "model/m/1", make=make)
    assert visible(store) == []


def test_a_disk_that_is_already_full_refuses_a_new_store(small_disk):
    with pytest.raises(OSError), (small_disk / "fill").open("wb", buffering=0) as stream:
        while stream.write(b"x" * 4096):
            pass
    with pytest.raises(InputError, match="no space left"):
        Store.open(small_disk / "store")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_library_that_wraps_a_full_disk_is_understood(store, error):
    def make(work: Work) -> None:
        try:
            raise error
        except Exception as cause:
            raise ValueError("could not serialise") from cause

    with pytest.raises(InputError, match="no space left"):
        build(store, "model/m/1", make=make)


def test_an_ordinary_error_stays_what_it_is(store):
    def make(work: Work) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        build(store, "model/m/1", make=make)


def test_an_artifact_can_be_held_in_a_set(store):
    artifact = build(store, "model/m/1").artifact
    assert isinstance(artifact, Artifact) and artifact in {store.find("model/m")}
