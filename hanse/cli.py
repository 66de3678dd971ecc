"""The verbs. Imports nothing heavy at the top: `hanse --help` answers before a model library could even load."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from hanse import __version__, verbs
from hanse.errors import InputError, Interrupted

EPILOG = """\
a first walk:
  hanse run                          make a small model in 24 languages from the embedded atlas
  hanse chat                         talk to it
  hanse verify release/atlas         check every file and the signature
  hanse lineage release/atlas        see what it was made from
  hanse run recipes/europe.toml --set source.0.path='my/documents/*.jsonl.gz'
                                     the same for documents of yours; hanse data: only their data, and a report
  hanse find release/atlas --language mt
                                     which documents are in it, and where
  hanse trace "The country with the capital Paris: France"
                                     where a text stands in what it was trained on
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Returns 0 for success or a saved interruption, 1 for a failed check, 2 for bad input."""
    options = parser().parse_args(arguments)
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


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    whole = argparse.ArgumentParser(
        prog="hanse",
        description="From text that may be used to a signed, open language model in Europe's languages.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"hanse {__version__}")
    group = whole.add_subparsers(title="verbs", metavar="VERB", required=True)
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
    for add in (_run, _data, _plan, _launch, _release):
        add(group, made_from)
    for add in (_chat, _serve, _export, _find, _record, _look):
        add(group, shared)
    return whole


def _run(group, shared) -> None:
    run = _verb(group, shared, "run", verbs.run, "carry out a recipe from documents to a signed release")
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


def _data(group, shared) -> None:
    data = _verb(group, shared, "data", verbs.data, "make the data of a recipe, and a report on them")
    data.add_argument("--until", choices=verbs.DATA_KINDS, default="shards", help="stop after this (default: shards)")
    data.add_argument(
        "--shard", metavar="I/N", help="only read and annotate, as task I of N, from 1; the run without it finishes"
    )
    data.add_argument("--bands", metavar="I/N", help="only look for copies, as task I of N, after every --shard")


def _plan(group, shared) -> None:
    plan = _verb(group, shared, "plan", verbs.plan, "say what pre-training a recipe takes on a machine, before it runs")
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


def _launch(group, shared) -> None:
    from hanse.launch import options as launching

    launch = _verb(group, shared, "launch", verbs.launch, "carry out a recipe as a chain of Slurm jobs")
    launching.add(launch)


def _release(group, shared) -> None:
    release = _verb(group, shared, "release", verbs.release, "publish a recipe's model: papers, gate, signature")
    release.add_argument(
        "--final", action="store_true", help="refuse unless every mandatory question is answered and the gate is green"
    )
    release.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    release.add_argument(
        "--write-answers", type=Path, metavar="FILE", help="write an empty file of the questions to people, and stop"
    )


def _find(group, shared) -> None:
    from hanse.store import criteria

    find = _verb(group, shared, "find", verbs.find, "find documents, their rights, copies and place in the shards")
    find.add_argument("what", metavar="NAME", help="kind/name[/version] of anything made from documents, or a folder")
    criteria.add_options(find)
    find.add_argument("--limit", type=int, default=20, metavar="N", help="documents to show (default: 20)")


def _chat(group, shared) -> None:
    chat = _verb(group, shared, "chat", verbs.chat, "talk to a model in the terminal")
    chat.add_argument("--model", metavar="X", help="a release or model by name, or a folder (default: the newest)")
    chat.add_argument("--prompt", metavar="TEXT", help="answer this once, on stdout, and leave")
    chat.add_argument("--system", metavar="TEXT", help="a system prompt")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 always picks the likeliest token (default: 0)")
    chat.add_argument("--top-p", type=float, default=1.0, help="sample from this much probability (default: 1)")
    chat.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default: 256 tokens)")
    chat.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    chat.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    chat.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores it may use)")
    chat.add_argument(
        "--withdrawn", type=Path, metavar="FILE", help="passages at which an answer ends (default: those of its store)"
    )


def _export(group, shared) -> None:
    export = _verb(
        group, shared, "export", verbs.export, "write a model for another engine: a GGUF file, or another folder"
    )
    export.add_argument("model", metavar="MODEL", help="a release or model by name, or a folder")
    export.add_argument("out", type=Path, metavar="OUT", help="the file to write, or the folder for --type hf")
    export.add_argument(
        "--type",
        default="q8_0",
        choices=("f32", "bf16", "q8_0", "q4_k", "q5_k", "q6_k", "hf"),
        help="how numbers are packed in the GGUF file (default: q8_0), or hf for a Hugging Face folder",
    )
    export.add_argument("--with-mtp", action="store_true", help="keep the multi-token block, which needs --type hf")
    export.add_argument("--force", action="store_true", help="replace OUT if it is there")


def _serve(group, shared) -> None:
    from hanse.serve import command as serving

    serve = _verb(
        group, shared, "serve", verbs.serve, "answer over an OpenAI-compatible API, with a page to talk to it"
    )
    serving.add_options(serve)


def _record(group, shared) -> None:
    """The verbs that ask the record, each with its options in its own room."""
    from hanse.release.diff import command as diff_command
    from hanse.release.shares import command as shares_command
    from hanse.trace import command, impact_command, withdraw_command

    for name, room, description in (
        ("trace", command, "find which documents of the training text a text stands in"),
        ("withdraw", withdraw_command, "record that an author, a site or a document has to be left out"),
        (
            "impact",
            impact_command,
            "say what documents went into, and how often they were seen",
        ),
        ("diff", diff_command, "say what changed between two releases"),
        ("shares", shares_command, "say what each licensor's text contributed, and what that pays"),
    ):
        room.add_options(_verb(group, shared, name, room.run, description))


def _look(group, shared) -> None:
    verify = _verb(
        group, shared, "verify", verbs.verify, "check an artifact or a release against its digests and signature"
    )
    verify.add_argument("what", metavar="PATH_OR_NAME", help="a folder, or kind/name[/version]")
    verify.add_argument("--key", type=Path, metavar="PEM", help="the public key that has to have signed the release")

    path = _verb(group, shared, "path", verbs.path, "print the folder of an artifact")
    path.add_argument("what", metavar="KIND/NAME[/VERSION]")
    show = _verb(group, shared, "show", verbs.show, "print the record of an artifact: inputs, definition, counts")
    show.add_argument("what", metavar="KIND/NAME[/VERSION]")
    lineage = _verb(group, shared, "lineage", verbs.lineage, "draw what an artifact was made from, as a tree")
    lineage.add_argument("what", metavar="KIND/NAME[/VERSION]")
    _verb(group, shared, "list", verbs.list_artifacts, "list the artifacts of a store")


def _verb(group, shared, name, function, description):
    sentence = description[0].upper() + description[1:] + "."
    made = group.add_parser(name, parents=[shared], help=description, description=sentence)
    made.set_defaults(verb=function)
    return made


def entry() -> None:
    """The command `hanse`: run a verb and leave."""
    code = main()
    if "hanse.parallel.ranks" in sys.modules:
        from hanse.parallel.ranks import leave

        leave(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
