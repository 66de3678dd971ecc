"""A release and its signature, before our verifier, a lone copy of it, and the reference tool of the OpenSSF."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hanse.errors import InputError
from hanse.release import sign, verifier
from hanse.store import check
from hanse.store.digest import sha256_file

REFERENCE = Path(sys.executable).with_name("model_signing")


@pytest.fixture
def folder(released, tmp_path) -> Path:
    """The release as somebody else has it: copied out of its store, and renamed."""
    return Path(shutil.copytree(released.path, tmp_path / "elsewhere"))


@pytest.fixture
def public_key(settings, tmp_path) -> Path:
    path = tmp_path / "published.pub"
    path.write_text(sign.public_pem(sign.load_or_create_key(Path(settings.key))))
    return path


@pytest.fixture
def other_key(tmp_path) -> Path:
    path = tmp_path / "other.pub"
    path.write_text(sign.public_pem(sign.load_or_create_key(tmp_path / "other.pem")))
    return path


def alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the copy inside the release in a process that cannot import Hanse."""
    program = (
        "import sys, runpy; sys.path = [p for p in sys.path if 'hanse' not in p.lower()];"
        "sys.modules['hanse'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", program, str(folder / "verify.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=300)


def reference(folder: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """The reference tool, with no network to reach."""
    if not REFERENCE.exists():
        pytest.skip("the reference tool (PyPI: model-signing with pyopenssl) is not installed")
    offline = ["unshare", "--net"] if shutil.which("unshare") and os.geteuid() == 0 else []
    command = [*offline, str(REFERENCE), "verify", "key", str(folder), "--signature", str(folder / "model.sig")]
    return subprocess.run(
        [*command, "--public_key", str(key)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HOME": "/"},
    )


def found(folder: Path, key: Path | None = None) -> dict[str, str]:
    return {problem.path: problem.what for problem in verifier.verify(folder, key).problems}


def test_an_untouched_release_holds_before_everyone(folder, public_key, released, store):
    assert found(folder, public_key) == {}
    done = alone(folder, folder, "--key", public_key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "holds" in done.stdout and "signed by the key given" in done.stdout
    assert check.verify("release/toy", store_root=store.root, key=public_key).holds
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder).returncode == 0


def test_the_reference_tool_accepts_the_release_offline(folder, public_key):
    done = reference(folder, public_key)
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stdout + done.stderr


def test_the_reference_tool_accepts_awkward_names_too(tmp_path):
    folder = tmp_path / "model"
    names = ["a", "a.b", "a/b", "a b", "ø", "a-b/c", "A", "Z/é", ".hidden"]
    for name in [n for n in names if n != "a"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    key = sign.load_or_create_key(tmp_path / "key.pem")
    digests = {name: sha256_file(folder / name) for name in names if name != "a"}
    (folder / "model.sig").write_text(sign.bundle(digests, name="x", key=key))
    (tmp_path / "key.pub").write_text(sign.public_pem(key))
    done = reference(folder, tmp_path / "key.pub")
    assert done.returncode == 0, done.stdout + done.stderr


def test_we_accept_what_the_reference_tool_signed(tmp_path):
    if not REFERENCE.exists():
        pytest.skip("the reference tool (PyPI: model-signing with pyopenssl) is not installed")
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_text("w")
    key = sign.load_or_create_key(tmp_path / "key.pem")
    command = [str(REFERENCE), "sign", "key", str(folder), "--private_key", str(tmp_path / "key.pem")]
    subprocess.run([*command, "--signature", str(folder / "model.sig")], check=True, capture_output=True)
    signed = verifier.open_bundle((folder / "model.sig").read_text(), key.public_key())
    assert signed == {"sub/weights": sha256_file(folder / "sub" / "weights")}


def test_a_flipped_byte_in_any_file_is_refused_by_name(folder, public_key):
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        original = path.read_bytes()
        for position in {0, len(original) // 2, len(original) - 1}:
            changed = bytearray(original)
            changed[position] ^= 1
            path.write_bytes(changed)
            assert name in found(folder, public_key), (name, position)
        path.write_bytes(original)
    assert found(folder, public_key) == {}


@pytest.mark.parametrize("touch", ["flip", "add", "remove"])
def test_the_reference_tool_refuses_what_we_refuse(folder, public_key, touch):
    name = {"flip": "model.safetensors", "add": "evil.py", "remove": "provenance/dataset-toy-1.json"}[touch]
    path = folder / name
    if touch == "remove":
        path.unlink()
    else:
        data = bytearray(path.read_bytes() if path.exists() else b"x")
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    done = reference(folder, public_key)
    assert done.returncode != 0 and name in done.stdout + done.stderr
    done = alone(folder, folder, "--key", public_key)
    assert done.returncode == 1 and f"{name}: " in done.stdout


def test_every_missing_file_is_named(folder, public_key):
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        original = path.read_bytes()
        path.unlink()
        assert found(folder, public_key)[name].startswith("is missing"), name
        path.write_bytes(original)


@pytest.mark.parametrize("name", ["evil.py", "sub/evil", "provenance/x.json", "run/x", "pytorch_model.bin", ".hidden"])
def test_an_added_file_is_named(folder, public_key, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    assert name in found(folder, public_key)


def test_a_link_out_of_the_folder_is_refused_and_not_read(folder, public_key, tmp_path):
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "nowhere")
    assert found(folder, public_key)["README.md"] == "is a link or a special file"


def test_files_that_a_hub_adds_are_left_aside(folder, public_key):
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    assert found(folder, public_key) == {}
    assert reference(folder, public_key).returncode == 0


def test_another_key_is_refused(folder, other_key):
    assert "another key" in found(folder, other_key)["model.sig"]
    done = alone(folder, folder, "--key", other_key)
    assert done.returncode == 1 and "model.sig: was made with another key" in done.stdout


def test_without_a_key_the_reader_is_told_what_to_compare(folder, settings):
    done = alone(folder)
    assert done.returncode == 0
    key = sign.load_or_create_key(Path(settings.key))
    assert f"fingerprint {sign.fingerprint(key)}" in done.stdout and "who signed is open" in done.stdout


def test_a_fingerprint_is_the_one_that_openssl_shows(public_key):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    der = subprocess.run(
        ["openssl", "ec", "-pubin", "-in", str(public_key), "-outform", "DER"], capture_output=True, check=True
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der.stdout)
    assert verifier.fingerprint(verifier.load_public_key(public_key.read_bytes())) == digest.finalize().hex()


def test_a_release_signed_again_by_an_intruder_needs_another_key(folder, public_key, tmp_path):
    """The whole folder is consistent, sums and signature included; only the true key tells."""
    (folder / "README.md").write_text("now with more")
    intruder = sign.load_or_create_key(tmp_path / "intruder.pem")
    (folder / "signing-key.pub").write_text(sign.public_pem(intruder))
    resum(folder)
    resign(folder, intruder)
    assert found(folder) == {}
    assert list(found(folder, public_key)) == ["model.sig"]


def resum(folder: Path) -> None:
    """Rewrite the sums and the record's subjects to fit the files that are there now."""
    record = json.loads((folder / "step.json").read_text())
    files = [s["name"] for s in record["subject"][1:]]
    digests = {name: sha256_file(folder / name) for name in files}
    (folder / "SHA256SUMS").write_text("".join(f"{digests[name]}  {name}\n" for name in files))
    record["subject"] = [{"name": n, "digest": {"sha256": digests[n]}} for n in files]
    record["subject"].insert(0, {"name": "release/toy/1", "digest": {"sha256": sha256_file(folder / "SHA256SUMS")}})
    (folder / "step.json").write_text(json.dumps(record))


def resign(folder: Path, key: ec.EllipticCurvePrivateKey) -> None:
    paths = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "model.sig"]
    digests = {name: sha256_file(folder / name) for name in paths}
    (folder / "model.sig").write_text(sign.bundle(digests, name="toy", key=key))


def test_even_the_signer_cannot_swap_the_weights_under_the_records(folder, settings):
    """Weights that differ from those of the model's record are named, however well everything else fits."""
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    resum(folder)
    resign(folder, sign.load_or_create_key(Path(settings.key)))
    assert found(folder) == {"model.safetensors": "is not the one that model/toy-chat/1 was recorded with"}


def test_a_broken_link_in_the_chain_of_records_is_named(folder, settings):
    key = sign.load_or_create_key(Path(settings.key))
    path = folder / "provenance" / "dataset-toy-1.json"
    path.write_text(path.read_text() + " ")
    resum(folder)
    resign(folder, key)
    problems = found(folder)
    assert problems["provenance/dataset-toy-1.json"] == "is named by no other record"
    assert any(name.startswith("dataset/toy/1 (named by provenance/") for name in problems)
    (folder / "provenance" / "documents.parquet").write_bytes(b"other")
    resum(folder)
    resign(folder, key)
    assert found(folder)["provenance/documents.parquet"] == "is named by no record"


def test_a_record_cannot_pass_a_file_off_as_a_byproduct(folder, public_key):
    (folder / "config.json").write_text("{}")
    record = json.loads((folder / "step.json").read_text())
    forged = {"name": "config.json", "digest": {"sha256": sha256_file(folder / "config.json")}}
    record["predicate"]["runDetails"]["byproducts"] = [forged]
    (folder / "step.json").write_text(json.dumps(record))
    assert found(folder, public_key)["config.json"] == "changed"


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.update(mediaType="x"),
        lambda b: b["dsseEnvelope"].update(payloadType="x"),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"].update(payload="***"),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=base64.b64encode(b"x").decode()),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=7),
        lambda b: b.pop("verificationMaterial"),
        lambda b: b.clear(),
    ],
)  # fmt: skip
def test_a_mangled_bundle_is_a_problem_and_no_crash(folder, public_key, change):
    bundle = json.loads((folder / "model.sig").read_text())
    change(bundle)
    (folder / "model.sig").write_text(json.dumps(bundle))
    assert list(found(folder, public_key)) == ["model.sig"]


@pytest.mark.parametrize("name", ["model.sig", "step.json", "SHA256SUMS", "provenance/dataset-toy-1.json"])
@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"_type": 1}', "[" * 100_000, "\xff"])
def test_garbage_in_any_text_file_is_a_problem_and_no_crash(folder, public_key, name, text):
    (folder / name).write_bytes(text.encode("latin-1"))
    assert name in found(folder, public_key)


def test_a_signed_list_that_leaves_files_out_is_refused(folder, settings):
    key = sign.load_or_create_key(Path(settings.key))
    bundle = json.loads((folder / "model.sig").read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    statement["predicate"]["serialization"]["ignore_paths"].append("README.md")
    payload = json.dumps(statement).encode()
    signature = key.sign(verifier.encode(payload), ec.ECDSA(hashes.SHA256()))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    (folder / "model.sig").write_text(json.dumps(bundle))
    assert "leaves out files" in found(folder)["model.sig"]


def test_a_folder_that_is_no_release_does_not_hold(tmp_path):
    assert alone_here(tmp_path).returncode == 1
    assert alone_here(tmp_path / "none").returncode == 1


def alone_here(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(Path(verifier.__file__)), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_key_is_made_for_its_owner_only_and_kept(tmp_path):
    path = tmp_path / "deep" / "key.pem"
    made = sign.load_or_create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sign.fingerprint(sign.load_or_create_key(path)) == sign.fingerprint(made)
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        sign.load_or_create_key(path)


def _pem(key, encryption=None) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption or serialization.NoEncryption())


@pytest.mark.parametrize("kind", ["garbage", "passphrase", "other curve", "folder"])
def test_an_unusable_key_is_bad_input(tmp_path, kind):
    path = tmp_path / "key.pem"
    if kind == "folder":
        path.mkdir()
    elif kind == "garbage":
        path.write_text("no key")
    elif kind == "other curve":
        path.write_bytes(_pem(ec.generate_private_key(ec.SECP384R1())))
    else:
        path.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"x")))
    path.chmod(0o600) if kind != "folder" else None
    with pytest.raises(InputError, match=str(path)):
        sign.load_or_create_key(path)


def test_a_release_signed_by_another_key_is_drift(make_release, settings, released, tmp_path):
    other = settings.model_copy(update={"key": str(tmp_path / "new.pem")})
    built = make_release(other)
    assert built.state == "drifted" and any(line.startswith("signed_by: ") for line in built.drift)
    moved = settings.model_copy(update={"key": str(shutil.copy2(settings.key, tmp_path / "moved.pem"))})
    assert make_release(moved).state == "unchanged"
