"""The verifier of a release in an environment that holds `cryptography` and nothing else, without any network."""

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A fresh environment; skipped where no package index can be reached."""
    place = tmp_path_factory.mktemp("alone")
    venv.create(place, with_pip=True, system_site_packages=False)
    python = place / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "cryptography"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        pytest.skip("cryptography cannot be installed here: no package index has answered for ten minutes")
    if done.returncode:
        pytest.skip(f"cryptography cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """The release as somebody else has it."""
    return Path(shutil.copytree(original / "s" / "release" / "toy" / "1", tmp_path / "elsewhere"))


def verify(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the release's own `verify.py`; with no network where the machine lets us take it away."""
    offline = ["unshare", "--net"] if shutil.which("unshare") and os.geteuid() == 0 else []
    nothing = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    command = [*offline, str(python), "-I", str(folder / "verify.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=300, env=nothing)


def test_the_environment_holds_cryptography_and_no_more_of_ours(python):
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    names = {line.split("==")[0].lower() for line in listed.stdout.split()}
    assert "cryptography" in names
    assert names <= {"cryptography", "cffi", "pycparser", "pip", "setuptools", "typing_extensions", "wheel"}
    missing = subprocess.run([python, "-I", "-c", "import hanse"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in missing.stderr


def test_an_untouched_release_holds(python, folder):
    done = verify(python, folder)
    assert done.returncode == 0 and "holds" in done.stdout, done.stdout + done.stderr


def test_a_flipped_byte_is_refused_and_the_file_named(python, folder):
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "verify.py"):
        original = path.read_bytes()
        if not original:
            continue
        changed = bytearray(original)
        changed[len(original) // 2] ^= 1
        path.write_bytes(changed)
        done = verify(python, folder)
        name = path.relative_to(folder).as_posix()
        assert done.returncode == 1 and f"{name}: " in done.stdout, (name, done.stdout, done.stderr)
        path.write_bytes(original)
    assert verify(python, folder).returncode == 0


def test_without_any_one_record_of_the_provenance_it_fails_loudly(python, folder):
    records = sorted((folder / "provenance").glob("*.json"))
    assert len(records) == 7
    for path in records:
        original = path.read_bytes()
        path.unlink()
        done = verify(python, folder)
        assert done.returncode == 1 and f"provenance/{path.name}: is missing" in done.stdout, done.stdout
        path.write_bytes(original)


def test_a_changed_verifier_is_named_by_the_one_that_was_there_before(python, folder, tmp_path):
    """A verifier that lies cannot be trusted about itself; a copy from before tells."""
    kept = shutil.copy2(folder / "verify.py", tmp_path / "verify.py")
    with (folder / "verify.py").open("a") as stream:
        stream.write("\n")
    done = subprocess.run([python, "-I", kept, folder], capture_output=True, text=True, cwd="/", timeout=300)
    assert done.returncode == 1 and "verify.py: " in done.stdout
