"""`hanse serve`: what it refuses to serve, where it refuses to listen, and how it ends."""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from served import MODEL, PATIENCE_SECONDS, Scripted, serving
from tokenizers import Tokenizer

from hanse.cli import main
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.release import sign
from hanse.serve import command
from hanse.serve.api import keys
from hanse.serve.api.keys import KeyFile

USER = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def folder(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "little"
    path.mkdir()
    hf.save(model, path)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    place = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    (place / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (place / "key.pem").write_bytes(key.private_bytes(*form))
    return place / "cert.pem", place / "key.pem"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence with which `hanse serve` refuses these arguments."""
    assert main(["serve", *map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    return line


# --------------------------------------------------------------------------- what is not served, and where not


def test_a_folder_without_a_signature_is_served_only_on_demand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--unverified" in refused(capsys, folder)
    assert "--signer cannot be checked" in refused(capsys, folder, "--signer", "x.pem")


def test_a_signed_folder_that_does_not_hold_is_refused_even_on_demand(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "model.sig").write_text("{}")
    for more in ((), ("--unverified",)):
        assert "Refusing to serve it" in refused(capsys, tmp_path / "m", *more)


def test_sums_that_do_not_hold_are_refused_without_a_signature_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "SHA256SUMS").write_text(f"{'0' * 64}  config.json\n")
    assert "does not hold" in refused(capsys, tmp_path / "m", "--unverified")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_public_address_wants_keys_and_tls(
    folder: Path, certificate: tuple[Path, Path], tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = ("--tls-cert", certificate[0], "--tls-key", certificate[1])
    keys.add(tmp_path / "keys.json", "anna")
    kept = ("--keys", tmp_path / "keys.json")
    assert "give --keys and --tls-cert with --tls-key, or" in refused(capsys, folder, "--host", host)
    assert "give --keys, or" in refused(capsys, folder, "--host", host, *tls)
    assert "give --tls-cert with --tls-key, or" in refused(capsys, folder, "--host", host, *kept)
    # With both, or with the word for it, the next hurdle is reached.
    assert "--unverified" in refused(capsys, folder, "--host", host, *kept, *tls)
    assert "--unverified" in refused(capsys, folder, "--host", host, "--insecure-public")


def test_options_that_cannot_be_are_refused_in_one_sentence(
    folder: Path, certificate: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, why in (
        (("--port", 70000), "--port 70000"),
        (("--host", "no such host"), "--host no such host"),
        (("--tls-cert", certificate[0]), "belong together"),
        (("--tls-cert", certificate[0], "--tls-key", certificate[0]), "cannot be used for TLS"),
        (("--keys", tmp_path / "none.json", "--unverified"), "--new-key NAME"),
        (("--new-key", "anna"), "--keys FILE"),
        (("--expires", "2030-01-01"), "--new-key NAME"),
        (("--queue", 0), "--queue 0"),
        (("--timeout", "nan"), "--timeout nan"),
        (("--context", 1, "--unverified", "--port", 0), "--context 1"),
        (("--log", tmp_path, "--unverified"), "--log"),
    ):
        assert why in refused(capsys, folder, *arguments), arguments


def test_a_key_is_made_and_removed_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    limits = ("--requests-per-minute", "5", "--concurrent", "2", "--tokens-per-day", "1000", "--expires", "2999-01-01")
    assert main(["serve", "--new-key", "anna", "--keys", str(file), *limits]) == 0
    shown = capsys.readouterr()
    found = KeyFile(file).find(shown.out.strip().encode())
    assert found is not None and found.name == "anna"
    assert (found.allowance.requests_per_minute, found.allowance.concurrent, found.allowance.tokens_per_day) == (
        5,
        2,
        1000,
    )
    assert shown.out.strip() not in shown.err
    assert main(["serve", "--remove-key", "anna", "--keys", str(file)]) == 0
    assert KeyFile(file).find(shown.out.strip().encode()) is None


def test_the_folder_says_how_answers_are_drawn_unless_asked_otherwise(tmp_path: Path) -> None:
    for text, expected in (
        ('{"do_sample": false}', 0.0), ('{"temperature": 0.6}', 0.6), ("{}", 1.0), ("[", 1.0), ("[]", 1.0),
        ('{"temperature": "hot"}', 1.0), ('{"temperature": NaN}', 1.0),
    ):  # fmt: skip
        (tmp_path / "generation_config.json").write_text(text)
        assert command._temperature(tmp_path) == expected


def test_every_option_is_explained() -> None:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    options = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    assert not {name for name in options - {"--help"} if f"`{name}" not in page}


# --------------------------------------------------------------------------- TLS


def test_a_server_with_tls_answers_those_who_trust_its_certificate(
    certificate: tuple[Path, Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    key = keys.add(tmp_path / "keys.json", "anna")
    with serving(Scripted(tokenizer), tls=context, keys=KeyFile(tmp_path / "keys.json")) as api:
        trusting = httpx.Client(verify=ssl.create_default_context(cafile=str(certificate[0])))
        with openai.OpenAI(base_url=f"{api.url}/v1", api_key=key, http_client=trusting) as client:
            answer = client.chat.completions.create(model=MODEL, messages=USER)
        assert answer.choices[0].finish_reason == "stop"
        with pytest.raises(httpx.ConnectError):
            api.get("/health")
        with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_SECONDS) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with suppress(ConnectionError):
                assert b"200" not in plain.recv(4096)


# --------------------------------------------------------------------------- the process


@pytest.fixture
def signed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A release of the little model in a store, and the public key of its signer."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "release"))
    import toy_release as toy

    from hanse.recipe import Release
    from hanse.store.stage import Store, Work

    def model(work: Work) -> None:
        toy.write_model(work.folder)
        for path in folder.iterdir():
            shutil.copy(path, work.folder)
        work.note(tokens=1000)

    store = Store.open(tmp_path / "store")

    def step(ref: str, make, **inputs):
        return store.build(*ref.split("/"), definition={"ref": ref}, inputs=inputs, make=make).artifact

    dataset = step("dataset/toy/1", toy.write_dataset)
    chat = step("model/toy-chat/1", model, text=dataset)
    step("evaluation/toy-chat/1", toy.writing("scores.json", json.dumps(toy.SCORES)), model=chat)
    settings = Release.model_validate({**toy.SETTINGS, "key": str(tmp_path / "signer.pem")})
    release = toy.publish(store, settings).artifact.path
    (tmp_path / "signer.pub").write_text(sign.public_pem(sign.load_or_create_key(tmp_path / "signer.pem")))
    return release, tmp_path / "signer.pub"


def test_a_release_is_served_by_its_name_and_ends_in_good_order(
    signed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release, signer = signed
    arguments = ["serve", "--store", str(tmp_path / "store"), "--signer", str(signer), "--port", "0", "--json",
                 "--device", "cpu", "--threads", "1", "--log", str(tmp_path / "log")]  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-m", "hanse.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert running.stdout is not None and running.stderr is not None
        told = json.loads(running.stdout.readline())
        assert (told["model"], told["engine"]) == ("toy", "native")
        if (status := Path(f"/proc/{running.pid}/status")).is_file():
            ignored = int(re.search(r"SigIgn:\s*([0-9a-f]+)", status.read_text())[1], 16)  # type: ignore[index]
            assert ignored >> (signal.SIGPIPE - 1) & 1, "a client that leaves would end the server"
        client = openai.OpenAI(base_url=told["url"] + "/v1", api_key="none", max_retries=0)
        (found,) = client.models.list().data
        stream = iter(
            client.chat.completions.create(
                model=found.id, messages=USER, stream=True, max_tokens=100, extra_body={"ignore_eos": True}
            )
        )
        first = next(stream)
        assert first.system_fingerprint.startswith("sha256:")
        port = told["url"].rpartition(":")[2]
        assert "another server may run there" in refused(capsys, release, "--port", port)
        running.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"  # what runs is finished
        assert running.wait(PATIENCE_SECONDS) == 0
        shown = running.stderr.read()
        assert "Ctrl-C stops" in shown and "stopped." in shown and "Traceback" not in shown
    finally:
        running.kill()
        running.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/models", 200), ("/v1/chat/completions", 200)]
    assert lines[1]["generated_tokens"] == 100


def test_a_release_that_changed_or_was_signed_by_another_is_refused(
    signed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release, _ = signed
    other = tmp_path / "other.pub"
    other.write_text(sign.public_pem(sign.load_or_create_key(tmp_path / "other.pem")))
    assert "does not hold" in refused(capsys, release, "--signer", other)
    changed = tmp_path / "changed"
    shutil.copytree(release, changed)
    config = changed / "config.json"
    config.write_text(config.read_text() + " ")
    assert "config.json: changed" in refused(capsys, changed)
