"""The verbs. Imports nothing heavy at the top: `hanse --help` answers before a model library could even load."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from hanse import __version__
from hanse.errors import InputError, Interrupted

EPILOG = """\
a first walk:
  hanse run                          make a small model in 24 languages from the embedded atlas
  hanse chat                         talk to it
  hanse verify release/atlas         check every file and the signature
  hanse lineage release/atlas        see what it was made from
  hanse run recipes/europe.toml      the same for a folder of real documents
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Returns 0 for success or a saved interruption, 1 for a failed check, 2 for bad input."""
    options = _parser().parse_args(arguments)
    # Ours and our dependencies' telemetry is off before any of them is imported.
    for variable in ("DAFT_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "DO_NOT_TRACK", "SCARF_NO_ANALYTICS"):
        os.environ[variable] = "0" if variable == "DAFT_ANALYTICS_ENABLED" else "1"
    # Threads wait for one another by spinning: for long, and a busy neighbour costs a factor of 7; never, and they wake
    # too late (LOG.md, "Waiting threads").
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _stop)  # a batch system asks; training answers it in its own way
    try:
        return int(options.verb(options))
    except InputError as error:
        print(f"hanse: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"\nhanse: {stop} Continue with: {_command_line(arguments)}", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print(f"\nhanse: stopped; finished steps are kept. Continue with: {_command_line(arguments)}", file=sys.stderr)
        return 0


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _command_line(arguments: list[str] | None) -> str:
    import shlex

    return shlex.join(["hanse", *(sys.argv[1:] if arguments is None else arguments)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hanse",
        description="From text that may be used to a signed, open language model in Europe's languages.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hanse {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--store",
        type=Path,
        default=Path(os.environ.get("HANSE_STORE", "store")),
        metavar="DIR",
        help="where artifacts are kept (default: $HANSE_STORE or ./store)",
    )
    shared.add_argument("--json", action="store_true", help="print the result as JSON on stdout")

    run = _verb(verbs, shared, "run", _run, "carry out a recipe from documents to a signed release")
    run.add_argument("recipe", nargs="?", metavar="RECIPE", help="a TOML file (default: the embedded atlas)")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of the recipe, for example pretrain.budget_tokens=1000000 or tune.0.epochs=2",
    )
    run.add_argument("--dry-run", action="store_true", help="print the resolved recipe, sizes and estimates, and stop")
    run.add_argument("--until", metavar="KIND", help="stop after this kind of artifact, for example shards")
    run.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    run.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores it may use)")

    chat = _verb(verbs, shared, "chat", _chat, "talk to a model in the terminal")
    chat.add_argument("--model", metavar="X", help="a release or model by name, or a folder (default: the newest)")
    chat.add_argument("--prompt", metavar="TEXT", help="answer this once, on stdout, and leave")
    chat.add_argument("--system", metavar="TEXT", help="a system prompt")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 always picks the likeliest token (default: 0)")
    chat.add_argument("--top-p", type=float, default=1.0, help="sample from this much probability (default: 1)")
    chat.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default: 256 tokens)")
    chat.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    chat.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    chat.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores it may use)")

    verify = _verb(verbs, shared, "verify", _verify, "check an artifact or a release against its digests and signature")
    verify.add_argument("what", metavar="PATH_OR_NAME", help="a folder, or kind/name[/version]")
    verify.add_argument("--key", type=Path, metavar="PEM", help="the public key that has to have signed the release")

    path = _verb(verbs, shared, "path", _path, "print the folder of an artifact")
    path.add_argument("what", metavar="KIND/NAME[/VERSION]")
    show = _verb(verbs, shared, "show", _show, "print the record of an artifact: inputs, definition, counts")
    show.add_argument("what", metavar="KIND/NAME[/VERSION]")
    lineage = _verb(verbs, shared, "lineage", _lineage, "draw what an artifact was made from, as a tree")
    lineage.add_argument("what", metavar="KIND/NAME[/VERSION]")
    _verb(verbs, shared, "list", _list, "list the artifacts of a store")
    return parser


def _verb(verbs, shared, name, function, description):
    parser = verbs.add_parser(name, parents=[shared], help=description, description=description.capitalize() + ".")
    parser.set_defaults(verb=function)
    return parser


def _run(options: argparse.Namespace) -> int:
    from hanse import plan, recipe

    path = Path(options.recipe) if options.recipe else recipe.embedded()
    parsed = recipe.load(path, options.set)
    if options.dry_run:
        plan.show(parsed, as_json=options.json)
        return 0
    plan.model_config(parsed)  # an impossible size is refused before the first stage, not after an hour of curation
    from hanse import pipeline
    from hanse.console import Console
    from hanse.runtime import Runtime
    from hanse.store.stage import Store

    pipeline.check_until(parsed, options.until)
    runtime, console = Runtime.detect(options.device, options.threads), Console()
    outcome = pipeline.run(parsed, Store.open(options.store), runtime=runtime, console=console, until=options.until)
    if options.json:
        print(json.dumps(outcome.as_dict(), indent=1))
    else:
        console.summary(outcome)
    return 0


def _chat(options: argparse.Namespace) -> int:
    from hanse.store.stage import Store

    folder = Path(options.model) if options.model and Path(options.model).is_dir() else None
    if folder is None:
        folder = _model(Store.open(options.store, create=False), options.model).path
    from hanse.serve import chat  # torch loads only once the model is known to be there

    return chat.run(folder, options)


def _model(store, name: str | None):
    """The model that a person means: `atlas`, `model/atlas-chat`, `release/atlas/2`, or the newest release."""
    if name and "/" in name:
        return store.find(name)
    found = [a for kind in ("model", "release") for a in store.artifacts() if a.kind == kind]
    if not found:
        raise InputError(f"{store.root}: holds no model yet; make one with: hanse run")
    if name is None:
        return max(found, key=lambda a: (a.record["predicate"]["runDetails"]["metadata"]["finishedOn"], a.kind))
    kinds = [a.kind for a in found if a.name == name]
    return store.find(f"{kinds[-1]}/{name}" if kinds else f"model/{name}")


def _verify(options: argparse.Namespace) -> int:
    from hanse.store import check

    report = check.verify(options.what, store_root=options.store, key=options.key)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print(report.text())
    return 0 if report.holds else 1


def _path(options: argparse.Namespace) -> int:
    artifact = _find(options)
    print(json.dumps({"ref": artifact.ref, "path": str(artifact.path)}) if options.json else artifact.path)
    return 0


def _show(options: argparse.Namespace) -> int:
    artifact = _find(options)
    if options.json:
        print(json.dumps(artifact.record, indent=1, ensure_ascii=False))
        return 0
    from hanse.store.record import summary

    print(summary(artifact))
    return 0


def _lineage(options: argparse.Namespace) -> int:
    from hanse.store import graph
    from hanse.store.stage import Store

    store = Store.open(options.store, create=False)
    tree = graph.lineage(store, store.find(options.what))
    print(json.dumps(tree.as_dict(), indent=1, ensure_ascii=False) if options.json else tree.text())
    return 0


def _list(options: argparse.Namespace) -> int:
    from hanse.store.stage import Store

    artifacts = list(Store.open(options.store, create=False).artifacts())
    if options.json:
        print(json.dumps([{"ref": a.ref, "digest": a.digest, "path": str(a.path)} for a in artifacts], indent=1))
        return 0
    for artifact in artifacts:
        print(f"{artifact.ref:<40} sha256:{artifact.digest[:16]}")
    return 0


def _find(options: argparse.Namespace):
    from hanse.store.stage import Store

    return Store.open(options.store, create=False).find(options.what)


if __name__ == "__main__":
    sys.exit(main())
