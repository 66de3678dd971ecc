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
  hanse data recipes/europe.toml     only its data, and a report on them
  hanse find release/atlas --language mt
                                     which documents are in it, and where
"""
_DATA_KINDS = ("dataset", "tokenizer", "shards")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Returns 0 for success or a saved interruption, 1 for a failed check, 2 for bad input."""
    options = _parser().parse_args(arguments)
    # Ours and our dependencies' telemetry is off before any of them is imported.
    for variable in ("DAFT_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "SCARF_NO_ANALYTICS"):
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
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        rank = os.environ.get("RANK", "0")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"hanse: rank {rank}: another rank has ended ({reason}). All go on from the last checkpoint with: "
              f"{_command_line(arguments)}", file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print(f"\nhanse: stopped; finished steps are kept. Continue with: {_command_line(arguments)}", file=sys.stderr)
        return 0


def _is_lost_peer(error: RuntimeError) -> bool:
    if "hanse.parallel.ranks" not in sys.modules:
        return False
    from hanse.parallel.ranks import is_lost_peer

    return is_lost_peer(error)


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

    made_from = argparse.ArgumentParser(add_help=False, parents=[shared])
    made_from.add_argument("recipe", nargs="?", metavar="RECIPE", help="a TOML file (default: the embedded atlas)")
    made_from.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of the recipe, for example pretrain.budget_tokens=1000000 or tune.0.epochs=2",
    )
    made_from.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores it may use)")

    run = _verb(verbs, made_from, "run", _run, "carry out a recipe from documents to a signed release")
    run.add_argument("--dry-run", action="store_true", help="print the resolved recipe, sizes and estimates, and stop")
    run.add_argument("--until", metavar="KIND", help="stop after this kind of artifact, for example shards")
    run.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    several = run.add_argument_group("several ranks", "started by torchrun or `hanse launch`, one process each")
    several.add_argument(
        "--replicate", type=int, default=1, metavar="N", help="copies of the model, each sharded (default: 1)"
    )
    several.add_argument(
        "--expert", type=int, default=1, metavar="N", help="ranks that split the experts among them (default: 1)"
    )
    run.add_argument(
        "--recompute", action="store_true", help="compute activations twice instead of keeping them: less memory"
    )

    run.add_argument("--float8", action="store_true", help="products in float8 where the GPU has them (Hopper, later)")

    data = _verb(verbs, made_from, "data", _data, "make the data of a recipe, and a report on them")
    data.add_argument("--until", choices=_DATA_KINDS, default="shards", help="stop after this (default: shards)")
    data.add_argument(
        "--shard", metavar="I/N", help="only read and annotate, as task I of N, from 1; the run without it finishes"
    )
    data.add_argument("--bands", metavar="I/N", help="only look for copies, as task I of N, after every --shard")

    plan = _verb(verbs, made_from, "plan", _plan, "say what pre-training a recipe takes on a machine, before it runs")
    plan.add_argument(
        "--machine", default="local", metavar="M", help="such as jupiter, lumi, local (default), or a TOML file"
    )
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="of the machine (default: 1)")
    plan.add_argument("--replicate", type=int, metavar="N", help="copies of the model (default: what is fastest)")
    plan.add_argument("--expert", type=int, metavar="N", help="ranks that split the experts (default: what is fastest)")
    plan.add_argument(
        "--recompute",
        action=argparse.BooleanOptionalAction,
        help="compute activations twice instead of keeping them (default: what is fastest)",
    )
    plan.add_argument("--mfu", type=float, metavar="SHARE", help="share of the peak to plan with, for example 0.15")

    from hanse.launch import options as launching

    launch = _verb(verbs, made_from, "launch", _launch, "carry out a recipe as a chain of Slurm jobs")
    launching.add(launch)

    find = _verb(verbs, shared, "find", _find_documents, "find documents, their rights, copies and place in the shards")
    find.add_argument("what", metavar="NAME", help="kind/name[/version] of anything made from documents, or a folder")
    find.add_argument("--author", metavar="A", help="part of the author's name")
    find.add_argument("--title", metavar="T", help="part of the title")
    find.add_argument("--domain", metavar="D", help="a domain, with those below it")
    find.add_argument("--url", metavar="U", help="the beginning of the address")
    find.add_argument("--licence", metavar="L", help="as SPDX, exactly")
    find.add_argument("--source", metavar="S", help="name of the source or collection, exactly")
    find.add_argument("--file", metavar="F", help="file of the source")
    find.add_argument("--line", type=int, metavar="N", help="line or row in the file, from 1")
    find.add_argument("--id", metavar="ID", help="of the document")
    find.add_argument("--language", metavar="XX", help="ISO 639-1 code")
    find.add_argument("--limit", type=int, default=20, metavar="N", help="documents to show (default: 20)")

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
    runtime = Runtime.detect(
        options.device, options.threads, replicate=options.replicate, expert=options.expert,
        recompute=options.recompute, float8=options.float8,
    )  # fmt: skip
    from hanse.parallel.ranks import Ranks

    ranks = Ranks(runtime)
    console = Console(is_quiet=not ranks.is_first)
    if not ranks.is_first:
        pipeline.follow(parsed, runtime=runtime, ranks=ranks, console=console)
        return 0
    store = Store.open(options.store)
    outcome = pipeline.run(parsed, store, runtime=runtime, ranks=ranks, console=console, until=options.until)
    try:
        _data_report(parsed, outcome, store, console)
    except InputError as error:
        console.warn(str(error))  # the model is made; a page that cannot be drawn is no failure
    if options.json:
        print(json.dumps(outcome.as_dict(), indent=1))
    else:
        console.summary(outcome)
    return 0


def _data(options: argparse.Namespace) -> int:
    from hanse import pipeline, recipe
    from hanse.console import Console
    from hanse.report import data, figures
    from hanse.runtime import Runtime
    from hanse.store.stage import Store

    shard, bands = _share("--shard", options.shard), _share("--bands", options.bands)
    parsed = recipe.load(Path(options.recipe) if options.recipe else recipe.embedded(), options.set)
    store, runtime, console = Store.open(options.store), Runtime.detect("cpu", options.threads), Console()
    if runtime.ranks > 1:
        raise InputError("hanse data: works in one process; start it without torchrun, or its tasks with --shard I/N.")
    if shard is not None or bands is not None:
        if shard is not None:
            folder = pipeline.annotate_shard(parsed, store, shard, runtime=runtime, console=console)
        if bands is not None:
            folder = pipeline.match_bands(parsed, store, bands, runtime=runtime, console=console)
        told = f"task {options.shard or options.bands} is done; when all are, run the same without --shard and --bands"
        given = {"shard": options.shard, "bands": options.bands, "path": str(folder)}
        print(json.dumps(given) if options.json else told)
        return 0
    from hanse.parallel.ranks import Ranks

    outcome = pipeline.run(parsed, store, runtime=runtime, ranks=Ranks(runtime), console=console, until=options.until)
    path = _data_report(parsed, outcome, store, console, always=True)
    rows = figures.languages(data.folders(outcome))
    if options.json:
        languages = [figures.as_dict(row) for row in rows]
        print(json.dumps({**outcome.as_dict(), "languages": languages, "report": path and str(path)}, indent=1))
        return 0
    console.languages(rows)
    if path is not None:
        print(path)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from hanse import recipe
    from hanse.plan.choose import Wishes
    from hanse.plan.cluster import cluster_plan
    from hanse.plan.machines import machine

    parsed = recipe.load(Path(options.recipe) if options.recipe else recipe.embedded(), options.set)
    wishes = Wishes(options.replicate, options.expert, options.recompute)
    made = cluster_plan(parsed, machine(options.machine), options.nodes, wishes=wishes, share=options.mfu)
    if options.json:
        print(json.dumps(made.as_dict(), indent=1))
        return 0
    from hanse.plan.printed import text

    print(text(made))
    return 0


def _launch(options: argparse.Namespace) -> int:
    from hanse import recipe
    from hanse.launch import submit

    return submit.run(recipe.load(Path(options.recipe) if options.recipe else recipe.embedded(), options.set), options)


def _share(option: str, text: str | None) -> tuple[int, int] | None:
    """Task and number of tasks of `--shard i/n`."""
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and len(text) < 20):
        raise InputError(f"{option} {text}: write I/N, for example 3/8 for the third of eight tasks.")
    if not 1 <= int(index) <= int(count):
        raise InputError(f"{option} {text}: I counts from 1 to N; in a Slurm array, for example, --array=1-8.")
    return int(index), int(count)


def _data_report(recipe, outcome, store, console, *, always: bool = False) -> Path | None:
    """Write the data report if anything in it is new, or `always`; without room for a page it is a warning."""
    from hanse.report import data

    path = data.place(store.root, recipe.name, recipe.version)
    made = any(built.state == "made" and built.artifact.kind in _DATA_KINDS for built in outcome.built)
    if always or made or not path.is_file():
        try:
            data.write(path, f"{recipe.name} {recipe.version}", data.folders(outcome))
        except OSError as error:
            console.warn(f"{path}: the data report cannot be written ({error.strerror}).")
            return None
    return path


def _find_documents(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from hanse.store import query, tables
    from hanse.store.criteria import Criteria

    if options.limit < 0:
        raise InputError(f"--limit {options.limit}: give a number of documents, 0 for the sums alone.")
    criteria = Criteria(**{field.name: getattr(options, field.name) for field in fields(Criteria)})
    found = [query.find(each, criteria, limit=options.limit) for each in tables.locate(options.what, options.store)]
    if options.json:
        print(json.dumps([each.as_dict() for each in found], indent=1, ensure_ascii=False))
        return 0
    from hanse.report.found import text

    print(text(found))
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


def entry() -> None:
    """The command `hanse`: run a verb and leave."""
    code = main()
    if "hanse.parallel.ranks" in sys.modules:
        from hanse.parallel.ranks import leave

        leave(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
