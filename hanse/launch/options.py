"""What `hanse launch` takes."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options beside those that every verb with a recipe has."""
    parser.add_argument(
        "--machine", metavar="NAME", help="a machine by name, for example lumi, or a TOML file of your own"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the scripts, and submit nothing")
    parser.add_argument("--status", action="store_true", help="tell how the chain of this recipe stands")

    size = parser.add_argument_group("size")
    size.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of a job (default: 1)")
    size.add_argument(
        "--ranks-per-node",
        type=int,
        metavar="N",
        help="processes on a node (default: one per accelerator; one on CPUs)",
    )
    size.add_argument("--minutes", type=int, metavar="N", help="length of a job (default: the machine's longest)")
    size.add_argument(
        "--save-seconds",
        type=int,
        metavar="N",
        help="this long before the end training stops and saves (default: 600, or a fifth of a short job)",
    )
    size.add_argument("--jobs", type=int, default=10, metavar="N", help="training jobs at most (default: 10)")
    size.add_argument(
        "--data-jobs",
        type=int,
        metavar="N",
        help="jobs before them that make the data on one node (default: 2; 0 if they are there, or one process trains)",
    )

    place = parser.add_argument_group("Slurm")
    place.add_argument("--account", metavar="A", help="the project that pays")
    place.add_argument("--partition", metavar="P", help="of the training jobs (default: the machine's)")
    place.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more option of training jobs: --sbatch=--qos=debug",
    )
    place.add_argument(
        "--sbatch-data", action="append", default=[], metavar="OPTION", help="one more option of the jobs for the data"
    )
    place.add_argument(
        "--setup", type=Path, metavar="FILE", help="a shell file that each job reads first: modules, venv"
    )
    place.add_argument("--prefix", metavar="WORDS", help="put before python in each job: 'singularity exec image.sif'")
    place.add_argument("--python", metavar="PATH", help="the interpreter (default: this one; python3 behind --prefix)")

    run = parser.add_argument_group("training, as for hanse run")
    run.add_argument("--replicate", type=int, metavar="N", help="groups that each hold the whole model")
    run.add_argument("--expert", type=int, metavar="N", help="ranks that share the experts of a layer")
    run.add_argument("--recompute", action="store_true", help="keep less of the forward pass, compute it again")
    run.add_argument("--float8", action="store_true", help="products in float8 where the GPU has them")
    run.add_argument("--device", metavar="D", help="auto, cpu or cuda")
