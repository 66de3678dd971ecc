"""What each verb of the command line does: read the options, call the room that does the work, print what came out.

Every function returns the exit code. Imports nothing heavy at the top, as in `cli`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hanse.errors import InputError

#: What `hanse data` can make.
DATA_KINDS = ("dataset", "tokenizer", "shards")


def run(options: argparse.Namespace) -> int:
    """`hanse run`. Carry out a recipe."""
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
    from hanse.plan.dealing import refuse_uneven
    from hanse.plan.layout import Layout

    refuse_uneven(parsed, Layout(1, runtime.ranks, runtime.replicate, runtime.expert))
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


def data(options: argparse.Namespace) -> int:
    """`hanse data`. Make the data of a recipe."""
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


def plan(options: argparse.Namespace) -> int:
    """`hanse plan`. Say what pre-training takes."""
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


def launch(options: argparse.Namespace) -> int:
    """`hanse launch`. Hand a recipe to Slurm."""
    from hanse import recipe
    from hanse.launch import submit

    return submit.run(recipe.load(Path(options.recipe) if options.recipe else recipe.embedded(), options.set), options)


def release(options: argparse.Namespace) -> int:
    """`hanse release`. Publish the model of a recipe."""
    from hanse import pipeline, recipe

    if options.write_answers:
        from hanse.release.papers import answers

        answers.write_template(options.write_answers)
        print(options.write_answers)
        return 0
    from hanse.console import Console
    from hanse.parallel.ranks import Ranks
    from hanse.runtime import Runtime
    from hanse.store.stage import Store

    parsed = recipe.load(Path(options.recipe) if options.recipe else recipe.embedded(), options.set)
    if options.final and not parsed.release.answers:
        raise InputError(
            "--final: the papers ask what only a person can answer, and [release] answers names no file; write one "
            "with: hanse release --write-answers answers.toml, and give it with --set release.answers=answers.toml."
        )
    store, console = Store.open(options.store), Console()
    runtime = Runtime.detect(options.device, options.threads)
    if runtime.ranks > 1:
        raise InputError("hanse release: works in one process; train with `hanse run` under torchrun, then release.")
    outcome = pipeline.run(
        parsed, store, runtime=runtime, ranks=Ranks(runtime), console=console, is_final=options.final
    )  # fmt: skip
    made = outcome.built[-1]
    if options.final and made.state == "drifted":
        raise InputError(
            f"{made.artifact.ref}: is there already, made otherwise ({'; '.join(made.drift)}); a release is never "
            "changed, so raise `version` in the recipe."
        )
    if options.final:
        from hanse.release.gate import audit as gate

        gate.require(gate.signature(made.artifact.path))
        for told in made.artifact.facts.get("gate", ()):
            console.say(told)
    unanswered = made.artifact.facts.get("unanswered", 0)
    if options.json:
        print(json.dumps({**outcome.as_dict(), "unanswered": unanswered}, indent=1))
        return 0
    print(made.artifact.path)
    if unanswered:
        console.warn(
            f"{unanswered} mandatory questions of the papers are unanswered; a final release needs them. Begin with: "
            "hanse release --write-answers answers.toml, and name that in [release] answers."
        )
    return 0


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
    made = any(built.state == "made" and built.artifact.kind in DATA_KINDS for built in outcome.built)
    if always or made or not path.is_file():
        try:
            data.write(path, f"{recipe.name} {recipe.version}", data.folders(outcome))
        except OSError as error:
            console.warn(f"{path}: the data report cannot be written ({error.strerror}).")
            return None
    return path


def find(options: argparse.Namespace) -> int:
    """`hanse find`. Find documents."""
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


def chat(options: argparse.Namespace) -> int:
    """`hanse chat`. Talk in the terminal."""
    folder = _model_folder(options.store, options.model)
    from hanse.serve import chat  # torch loads only once the model is known to be there

    return chat.run(folder, options)


def serve(options: argparse.Namespace) -> int:
    """`hanse serve`. Answer over HTTP."""
    from hanse.serve import command

    return command.run(options, lambda: _model_folder(options.store, options.folder))


def _model_folder(root: Path, name: str | None) -> Path:
    """The folder of the model that a person means: a folder as it is, else a name in the store."""
    from hanse.store.stage import Store

    if name and Path(name).is_dir():
        return Path(name)
    return _model(Store.open(root, create=False), name).path


def export(options: argparse.Namespace) -> int:
    """`hanse export`. Write a model for another engine."""
    from hanse.release import convert
    from hanse.store.stage import Store

    folder = Path(options.model)
    if not folder.is_dir():
        folder = _model(Store.open(options.store, create=False), options.model).path
    told = {"from": str(folder), "out": str(options.out), "type": options.type}
    if options.type == "hf":
        convert.write_folder(folder, options.out, with_mtp=options.with_mtp, force=options.force)
    elif options.with_mtp:
        raise InputError("--with-mtp: llama.cpp does not compute the multi-token block of these models; use --type hf.")
    else:
        from hanse.console import Console

        console = Console()
        written = convert.write_gguf(
            folder, options.out, kind=options.type, force=options.force, progress=console.progress
        )
        told |= {"bytes": written.bytes, "tensors": written.tensors}
        if written.left_out:
            console.say("the multi-token block is left out: llama.cpp does not compute it")
    print(json.dumps(told) if options.json else options.out)
    return 0


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


def verify(options: argparse.Namespace) -> int:
    """`hanse verify`. Check an artifact."""
    from hanse.store import check

    report = check.verify(options.what, store_root=options.store, key=options.key)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print(report.text())
    return 0 if report.holds else 1


def path(options: argparse.Namespace) -> int:
    """`hanse path`. Print a folder."""
    artifact = _named(options)
    print(json.dumps({"ref": artifact.ref, "path": str(artifact.path)}) if options.json else artifact.path)
    return 0


def show(options: argparse.Namespace) -> int:
    """`hanse show`. Print a record."""
    artifact = _named(options)
    if options.json:
        print(json.dumps(artifact.record, indent=1, ensure_ascii=False))
        return 0
    from hanse.store.record import summary

    print(summary(artifact))
    return 0


def lineage(options: argparse.Namespace) -> int:
    """`hanse lineage`. Draw a tree."""
    from hanse.store import graph
    from hanse.store.stage import Store

    store = Store.open(options.store, create=False)
    tree = graph.lineage(store, store.find(options.what))
    print(json.dumps(tree.as_dict(), indent=1, ensure_ascii=False) if options.json else tree.text())
    return 0


def list_artifacts(options: argparse.Namespace) -> int:
    """`hanse list`. List a store."""
    from hanse.store.stage import Store

    artifacts = list(Store.open(options.store, create=False).artifacts())
    if options.json:
        print(json.dumps([{"ref": a.ref, "digest": a.digest, "path": str(a.path)} for a in artifacts], indent=1))
        return 0
    for artifact in artifacts:
        print(f"{artifact.ref:<40} sha256:{artifact.digest[:16]}")
    return 0


def _named(options: argparse.Namespace):
    from hanse.store.stage import Store

    return Store.open(options.store, create=False).find(options.what)
