"""The whole way with a very small recipe, through the command line, as a person would run it."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 600.0  # for what has to come at all, however busy the machine is
CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
QUESTION = "Sag mir die Hauptstadt: Griechenland"
TINY = """
name = "tiny"
languages = ["de", "el", "mt"]
[[source]]
name = "atlas"
kind = "atlas"
licence = "Unicode-3.0"
licence_basis = "generated"
reservation = "none"
[tokenizer]
vocab_size = 1200
[model]
size = "1M"
n_routed_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 64
first_k_dense_replace = 1
[pretrain]
budget_tokens = 61440
sequence_length = 128
batch_tokens = 2048
checkpoint_seconds = 1
[[tune]]
source = "atlas"
epochs = 0.3
sequence_length = 128
batch_tokens = 2048
[evaluate]
items_per_language = 20
validation_bytes_per_language = 2000
"""


def hanse(*arguments: str, home: Path, timeout: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hanse.cli", *arguments],
        capture_output=True, text=True, cwd=home, env=environment(home), timeout=timeout,
    )  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "HANSE_THREADS": "1"}


def weights(store: Path, name: str) -> str:
    return hashlib.sha256((store / "model" / name / "1" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder in which the tiny recipe was carried out once, with its store in `store/`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tiny.toml").write_text(TINY)
    done = hanse("run", "tiny.toml", "--json", home=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.json").write_text(done.stdout)
    (folder / "first.log").write_text(done.stderr)
    return folder


@pytest.fixture
def copied(home, tmp_path) -> Path:
    """A copy of the release that a test may spoil."""
    return Path(shutil.copytree(home / "store/release/tiny/1", tmp_path / "release"))


def test_run_ends_with_every_artifact_and_the_scores(home):
    first = json.loads((home / "first.json").read_text())
    assert [a["ref"].split("/")[0] for a in first["artifacts"]] == [
        "dataset", "conversations", "tokenizer", "shards", "model", "model", "evaluation", "memorisation",
        "release",
    ]  # fmt: skip
    assert {a["state"] for a in first["artifacts"]} == {"made"}
    measured = {(row["language"], row["metric"]) for row in first["scores"] if row["task"] == "all"}
    for language in ("de", "el", "mt", "mean"):
        assert {(language, "exact_answer"), (language, "bits_per_byte")} <= measured
    assert {*first["scores"][0]} == {"language", "task", "metric", "value", "low", "high", "n"}


def test_second_run_makes_nothing(home):
    done = hanse("run", "tiny.toml", "--json", home=home)
    assert {a["state"] for a in json.loads(done.stdout)["artifacts"]} == {"unchanged"}


def test_changed_recipe_of_the_same_version_warns_with_a_diff_and_keeps_what_is_there(home):
    before = weights(home / "store", "tiny-base")
    done = hanse("run", "tiny.toml", "--set", "pretrain.learning_rate=0.5", "--until", "model", home=home)
    assert done.returncode == 0
    assert "learning_rate" in done.stderr and "0.5" in done.stderr and "version" in done.stderr
    assert weights(home / "store", "tiny-base") == before


def test_verify_lineage_show_and_path_answer(home):
    assert hanse("verify", "release/tiny", home=home).returncode == 0
    tree = hanse("lineage", "release/tiny", home=home).stdout
    assert "shards/tiny/1" in tree and "Unicode-3.0" in tree
    folder = hanse("path", "release/tiny", home=home).stdout.strip()
    assert (home / folder / "model.safetensors").is_file()
    record = json.loads(hanse("show", "model/tiny-chat", "--json", home=home).stdout)
    assert record["_type"] == "https://in-toto.io/Statement/v1"


def test_released_folder_answers_in_transformers_as_in_chat(home):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = hanse("chat", "--model", "tiny", "--prompt", QUESTION, "--temperature", "0", "--max-tokens", "12", home=home)
    assert said.returncode == 0, said.stderr
    folder = home / "store/release/tiny/1"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).float()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=12)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said.stdout.removesuffix("\n") == answer


def test_reference_tool_accepts_the_signature(home):
    folder = home / "store/release/tiny/1"
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(folder),
        "--signature", str(folder / "model.sig"), "--public_key", str(folder / "signing-key.pub"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_flipped_byte_is_refused_with_the_files_name(home, copied):
    path = copied / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(copied, home, "model.safetensors")


def test_added_file_is_refused_with_its_name(home, copied):
    (copied / "extra.py").write_text("print()")
    refused(copied, home, "extra.py")


def test_removed_file_is_refused_with_its_name(home, copied):
    (copied / "provenance" / "shards-tiny-1.json").unlink()
    refused(copied, home, "shards-tiny-1.json")


def test_other_key_is_refused(home, copied, tmp_path):
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other.pem"],
        cwd=tmp_path,
        check=True,
    )
    subprocess.run(["openssl", "ec", "-in", "other.pem", "-pubout", "-out", "other.pub"], cwd=tmp_path, check=True)
    refused(copied, home, "key", "--key", str(tmp_path / "other.pub"))


def refused(folder: Path, home: Path, name: str, *options: str) -> None:
    """`hanse verify` and the release's own verifier both say no, and why."""
    ours = hanse("verify", str(folder), *options, home=home)
    command = [sys.executable, "-I", str(folder / "verify.py"), str(folder), *options]
    alone = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    for done in (ours, alone):
        assert done.returncode == 1, done.stdout + done.stderr
        assert name in done.stdout + done.stderr


def run_through_kills(command: list[str], home: Path, folder: Path, longest: float) -> None:
    """Carry out a run in `folder` that is killed with -9 at three random moments, and once more to the end."""
    draw = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "hanse.cli", *command],
            cwd=folder, env=environment(home), stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=draw.uniform(4, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = hanse(*command, home=folder)
    assert done.returncode == 0, done.stderr


def test_run_killed_at_three_random_moments_ends_in_the_same_weights(home, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    run_through_kills(["run", "tiny.toml"], home, tmp_path, longest=25)
    for name in ("tiny-base", "tiny-chat"):
        assert weights(tmp_path / "store", name) == weights(home / "store", name)
    assert hanse("verify", "release/tiny", home=tmp_path).returncode == 0


def test_interrupted_run_saves_says_how_to_continue_and_leaves_with_zero(home, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    process = subprocess.Popen(
        [sys.executable, "-m", "hanse.cli", "run", "tiny.toml"],
        cwd=tmp_path, env=environment(home), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    scratch = tmp_path / "store/.work/model/tiny-base"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(scratch.rglob("step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert "hanse run tiny.toml" in said.replace("\n", " ")
    assert hanse("run", "tiny.toml", home=tmp_path).returncode == 0
    assert weights(tmp_path / "store", "tiny-chat") == weights(home / "store", "tiny-chat")


def test_second_run_at_the_same_time_leaves_and_names_the_first(home, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    first = subprocess.Popen(
        [sys.executable, "-m", "hanse.cli", "run", "tiny.toml", "--until", "shards"],
        cwd=tmp_path, env=environment(home), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    locks = tmp_path / "store/.locks"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (locks.is_dir() and any(p.stat().st_size for p in locks.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # else it may be done before the second one has started
    try:
        second = hanse("run", "tiny.toml", "--until", "shards", home=tmp_path)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=PATIENCE_SECONDS) == 0
    assert second.returncode == 2
    assert str(first.pid) in second.stderr


def test_real_documents_make_a_release_that_verifies_also_when_killed(home, tmp_path):
    if not CORPUS.is_dir():
        pytest.skip("the corpus of real documents is not beside the checkout (../shared/corpus)")
    command = [
        "run", str(Path(__file__).resolve().parents[1] / "recipes" / "europe.toml"), "--json",
        "--set", f"source.0.path={CORPUS}/eusurvey.*.jsonl.gz",
        "--set", "languages=['ga', 'hr', 'mt']", "--set", "curate.validation_share=0.2",
        "--set", "tokenizer.vocab_size=2000", "--set", "model.size=1M",
        "--set", "pretrain.budget_tokens=61440", "--set", "pretrain.batch_tokens=2048",
        "--set", "pretrain.checkpoint_seconds=1",
    ]  # fmt: skip
    for folder in ("straight", "killed"):
        (tmp_path / folder).mkdir()
    straight = hanse(*command, home=tmp_path / "straight")
    assert straight.returncode == 0, straight.stderr
    scores = json.loads(straight.stdout)["scores"]
    assert {row["language"] for row in scores if row["task"] == "all"} == {"ga", "hr", "mt", "mean"}
    run_through_kills(command, home, tmp_path / "killed", longest=20)
    stores = [tmp_path / folder / "store" for folder in ("straight", "killed")]
    assert weights(stores[0], "europe-base") == weights(stores[1], "europe-base")
    assert hanse("verify", "release/europe", home=tmp_path / "killed").returncode == 0


def test_a_model_folder_is_continued_with_its_own_tokenizer(home: Path, tmp_path: Path) -> None:
    recipe = TINY.replace('name = "tiny"\n', 'name = "further"\n', 1).replace("[tokenizer]\nvocab_size = 1200\n", "")
    start, end = recipe.index("[model]"), recipe.index("[pretrain]")
    folder = home / "store" / "model" / "tiny-chat" / "1"
    (tmp_path / "further.toml").write_text(f'{recipe[:start]}[model]\nstart = "{folder}"\n{recipe[end:]}')
    done = hanse("run", "further.toml", home=tmp_path)
    assert done.returncode == 0, done.stderr
    store = tmp_path / "store"
    before, after = (
        json.loads((path / "tokenizer.json").read_text()) for path in (folder, store / "release/further/1")
    )
    assert after["model"]["vocab"] == before["model"]["vocab"]
    runs = (store / "model/further-base/1/run", home / "store/model/tiny-base/1/run")
    further, fresh = (json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"] for run in runs)
    assert further < fresh - 1  # it knows something already
    record = json.loads((store / "model/further-base/1/step.json").read_text())
    assert "model.safetensors" in json.dumps(record) and str(folder) not in json.dumps(record)
