"""`hanse serve`: check the model, bind, open the engine, answer until asked to stop."""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.serve.api import Settings
    from hanse.serve.request import Backend
    from hanse.trace.passages import Filter

ENGINES = ("native", "llama.cpp", "vllm")
_KEY_OPTIONS = ("requests_per_minute", "concurrent", "tokens_per_day")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hanse serve`."""
    parser.add_argument("folder", nargs="?", metavar="MODEL", help="a release or model by name, or a folder")
    parser.add_argument("--name", metavar="NAME", help="what clients call the model (default: its own name)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0: a free one (default: 8000)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append a line of JSON for each request")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", choices=ENGINES, default="native", help="what computes (default: native)")
    engine.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    engine.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores but one)")
    engine.add_argument("--context", type=int, metavar="N", help="most tokens of prompt and answer (default: all)")
    engine.add_argument("--compile", action="store_true", help="compile first, a minute or two: more tokens a second")
    limits = parser.add_argument_group("limits of all")
    limits.add_argument("--queue", type=int, default=256, metavar="N", help="answers under way at once (default: 256)")
    limits.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds an answer (default: 600)")
    trust = parser.add_argument_group("trust")
    trust.add_argument("--signer", type=Path, metavar="PEM", help="the public key that has to have signed the release")
    trust.add_argument("--unverified", action="store_true", help="serve a folder that carries no signature")
    trust.add_argument(
        "--withdrawn", type=Path, metavar="FILE", help="passages at which an answer ends (default: those of its store)"
    )
    access = parser.add_argument_group("who may ask")
    access.add_argument("--keys", type=Path, metavar="FILE", help="ask for a key of this file")
    access.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate, with its chain")
    access.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    access.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="another name of this server")
    access.add_argument("--insecure-public", action="store_true", help="listen publicly without keys or TLS")
    keys = parser.add_argument_group("keys", "made and removed while a server runs; both need --keys FILE, and leave")
    keys.add_argument("--new-key", metavar="NAME", help="make a key, print it once")
    keys.add_argument("--expires", metavar="DATE", help="its last day, for example 2027-12-31")
    keys.add_argument("--requests-per-minute", type=int, metavar="N", help="it may begin")
    keys.add_argument("--concurrent", type=int, metavar="N", help="requests at once")
    keys.add_argument("--tokens-per-day", type=int, metavar="N", help="of prompts and answers, by UTC")
    keys.add_argument("--remove-key", metavar="NAME", help="refuse this key from now on")


def run(options: argparse.Namespace, find: Callable[[], Path]) -> int:
    """Carry out `hanse serve`. Returns the exit code.

    Args:
        options: as of `add_options`, with `json`.
        find: gives the folder of the model; not called where keys alone are edited.

    Raises:
        InputError: anything that keeps the server from starting, in one sentence.
    """
    if options.new_key or options.remove_key:
        return _edit_keys(options)
    if named := [name for name in (*_KEY_OPTIONS, "expires") if getattr(options, name) is not None]:
        raise InputError(f"--{named[0].replace('_', '-')}: belongs to a key; give it with --new-key NAME.")
    for name in ("queue", "timeout"):
        if not getattr(options, name) >= 1:
            raise InputError(f"--{name} {getattr(options, name)}: give 1 or more.")
    folder = find()
    tls = _tls(options)
    address = _address(options.host, options.port)
    _check_exposure(address, options, has_tls=tls is not None)
    _verify(folder, options)
    settings = _settings(folder, options, address)
    with _listen(address, options.host, options.port) as listening:
        return _serve(settings, listening, tls, folder, options)


# --------------------------------------------------------------------------- keys


def _edit_keys(options: argparse.Namespace) -> int:
    from hanse.serve.api import keys

    if options.keys is None:
        raise InputError("--new-key and --remove-key need --keys FILE: where the keys are kept.")
    if options.remove_key:
        keys.remove(options.keys, options.remove_key)
        print(f"{options.remove_key} is removed from {options.keys}.", file=sys.stderr)
    if options.new_key:
        allowance = keys.Allowance(**{name: getattr(options, name) for name in _KEY_OPTIONS})
        print(keys.add(options.keys, options.new_key, expires=options.expires, allowance=allowance))
        print(f"This is the key of {options.new_key}. It is shown this once and kept nowhere.", file=sys.stderr)
    return 0


# --------------------------------------------------------------------------- what may be served, and where


def _verify(folder: Path, options: argparse.Namespace) -> None:
    """Refuse what does not hold; what carries no signature only on demand."""
    from hanse.release import verifier
    from hanse.store.check import check_folder
    from hanse.store.digest import RECORD, SUMS

    if (folder / verifier.SIGNATURE).is_file():
        problems = [str(problem) for problem in verifier.verify(folder, options.signer).problems]
    elif options.signer is not None:
        raise InputError(f"{folder}: carries no signature, so --signer cannot be checked.")
    elif not options.unverified:
        raise InputError(
            f"{folder}: carries no signature; serve a release, or add --unverified to serve it all the same."
        )
    else:
        _note(f"warning: {folder} carries no signature: nobody vouches for it.")
        is_recorded = (folder / SUMS).is_file() or (folder / RECORD).is_file()
        problems = [str(problem) for problem in check_folder(folder)] if is_recorded else []
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{folder} does not hold: {problems[0]}{more}; see hanse verify. Refusing to serve it.")


def _address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """What a host name and port stand for."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: give 0 to 65535.")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: cannot be found ({error}).") from None
    family, _, _, _, place = found[0]
    return family, place


def _is_loopback(address: tuple[socket.AddressFamily, Any]) -> bool:
    return ipaddress.ip_address(str(address[1][0]).partition("%")[0]).is_loopback


def _check_exposure(address: tuple[socket.AddressFamily, Any], options: argparse.Namespace, *, has_tls: bool) -> None:
    if _is_loopback(address) or (options.keys is not None and has_tls):
        return
    missing = " and ".join(
        name for name, is_there in (("--keys", options.keys is not None), ("--tls-cert with --tls-key", has_tls))
        if not is_there
    )  # fmt: skip
    if not options.insecure_public:
        raise InputError(
            f"--host {options.host}: others can reach this address; give {missing}, or --insecure-public to go without."
        )
    _note(f"warning: others can reach {options.host}, and {missing} is not given.")


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Try the certificate before a model is loaded for it."""
    cert, key = options.tls_cert, options.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise InputError("--tls-cert and --tls-key belong together: the certificate and its private key.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise InputError(f"{cert}, {key}: cannot be used for TLS ({error}).") from None
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase; give one without, readable by you only")


def _listen(address: tuple[socket.AddressFamily, Any], host: str, port: int) -> socket.socket:
    """Take the port before a model is loaded for it."""
    family, place = address
    try:
        return socket.create_server(place[:2], family=family, backlog=1024)
    except OSError as error:
        raise InputError(
            f"{host}:{port}: cannot be listened at ({error.strerror or error}); another server may run there: "
            "stop it, or give --port 0 for a free port."
        ) from None


# --------------------------------------------------------------------------- the server


def _settings(folder: Path, options: argparse.Namespace, address: tuple[socket.AddressFamily, Any]) -> Settings:
    from hanse.serve.api import Settings
    from hanse.serve.api.keys import KeyFile
    from hanse.serve.api.settings import LOOPBACK_NAMES
    from hanse.serve.chat import is_tuned
    from hanse.store.digest import SUMS, sha256_file

    # A public address has names that we do not know; there the keys keep foreign pages out.
    hosts = None
    if _is_loopback(address) or options.allow_host:
        hosts = LOOPBACK_NAMES | {name.lower() for name in (options.host, *options.allow_host)}
    settings = Settings(
        keys=KeyFile(options.keys) if options.keys else None,
        hosts=hosts,
        is_tuned=is_tuned(folder),
        temperature=_temperature(folder),
        fingerprint=f"sha256:{sha256_file(folder / SUMS)}" if (folder / SUMS).is_file() else None,
        queue=options.queue,
        answer_seconds=options.timeout,
        withdrawn=withdrawn_passages(folder, options.withdrawn),
    )
    return replace(settings, log=_log(options.log)) if options.log else settings


def withdrawn_passages(folder: Path, given: Path | None) -> Filter | None:
    """The passages at which an answer of a model ends, see `passages.of_model`; says how many there are."""
    from hanse.trace import passages

    found = passages.of_model(folder, given)
    if found is not None:
        _note(f"{len(found.hashes):,} withdrawn passages end an answer; the weights are as they were.")
    return found


def _temperature(folder: Path) -> float:
    """What the folder asks for where a request says nothing; else OpenAI's default."""
    try:
        found = json.loads((folder / "generation_config.json").read_bytes())
        wanted = 0.0 if found.get("do_sample") is False else found.get("temperature", 1.0)
    except (OSError, ValueError, AttributeError):
        return 1.0
    return float(wanted) if isinstance(wanted, int | float) and 0 <= wanted <= 100 else 1.0


def _log(path: Path) -> Callable[[Mapping[str, object]], None]:
    """Append one line of JSON for each request."""
    try:
        stream: TextIO = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise InputError(f"--log {path}: cannot be written ({error.strerror}).") from None

    def write(record: Mapping[str, object]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            stream.write(json.dumps({"time": now, **record}) + "\n")
        except OSError as error:  # a full disk must not end the answers
            _note(f"warning: {path}: a line of the log is lost ({error.strerror}).")

    return write


def _open_engine(folder: Path, options: argparse.Namespace) -> Backend:
    if options.context is not None and options.context < 2:
        raise InputError(f"--context {options.context}: give 2 or more, for a prompt and an answer.")
    if options.engine == "native":
        from hanse.runtime import Runtime
        from hanse.serve.native import NativeBackend

        runtime = Runtime.detect(options.device, options.threads)
        if not runtime.threads_chosen:  # the server needs a core itself: with all, answers took 2.4 times as long
            runtime = replace(runtime, threads=max(1, runtime.threads - 1))
        return NativeBackend.open(folder, runtime, context=options.context, compiles=options.compile)
    if options.engine == "llama.cpp":
        from hanse.serve.llamacpp import LlamaCppBackend

        return LlamaCppBackend.open(folder, threads=options.threads, context=options.context)
    from hanse.serve.vllm import VllmBackend

    return VllmBackend.open(folder, context=options.context)


def _serve(
    settings: Settings,
    listening: socket.socket,
    tls: ssl.SSLContext | None,
    folder: Path,
    options: argparse.Namespace,
) -> int:
    from hanse.serve.api import create_app, server

    # The command line lets a closed pipe end the program. Here a client that leaves would end the server with it.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    opening: Callable[[], Backend] = lambda: _open_engine(folder, options)  # noqa: E731
    if options.engine != "vllm":
        # vLLM wants to be opened in the event loop. There Ctrl-C waits for the engine, so the others come before.
        opened = opening()
        opening = lambda: opened  # noqa: E731

    def make() -> server.Server:
        backend, name = opening(), options.name or _name(folder)
        app = create_app(backend, model=name, release=folder, settings=settings)
        return server.server(app, settings, tls=tls, announce=lambda: _announce(name, backend, listening, options))

    is_clean = server.run(make, listening)
    _note("stopped.")
    return 0 if is_clean else 1


def _announce(name: str, backend: Backend, listening: socket.socket, options: argparse.Namespace) -> None:
    """Say where the server is, once it answers."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if options.tls_cert else 'http'}://{shown}:{port}"
    if options.json:
        told = {"url": url, "model": name, "engine": backend.name, "context": backend.context}
        print(json.dumps(told), flush=True)
    _note(f"{name} answers at {url} (API: {url}/v1)")
    _note(f"engine {backend.name}, {backend.context} tokens of context; Ctrl-C stops.")
    if options.open:
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _name(folder: Path) -> str:
    """What a folder calls itself: `atlas` for `release/atlas/1`; else the folder's own name."""
    try:
        subject = json.loads((folder / "step.json").read_bytes())["subject"][0]["name"]
        return str(subject).split("/")[1]
    except (OSError, ValueError, LookupError, TypeError):
        return folder.resolve().name or "model"


def _note(text: str) -> None:
    print(f"hanse: {text}", file=sys.stderr, flush=True)
