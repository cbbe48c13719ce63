"""The flags of `darkprune prune` that concern images: declared, checked, and turned into what they stand for.

Imported with the command, so that nothing here imports torch before images are given.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.budget import UNITS
from darkprune.selection.importance import GLOBAL_CRITERIA, IMAGE_CRITERIA
from darkprune.selection.settings import RECOVERIES
from darkprune.surgery.units import Unit, UnitScorer, score_units

if TYPE_CHECKING:
    from darkprune.data.dataset import Dataset
    from darkprune.search.session import Progress, Session


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the flags."""
    images = parser.add_argument_group("images")
    images.add_argument(
        "--images", metavar="DIR", help="unlabelled images (folder or list): to score, recover, measure"
    )
    images.add_argument(
        "--recover",
        choices=RECOVERIES,
        default="none",
        help="lsq: refit every convolution by least squares; scale: ThiNet's, one factor per channel; bn: new batch "
        "statistics; none (default)",
    )
    images.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help="EagleEye: the best of N random allocations within --target-…, by output distance",
    )
    images.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="--candidates: processes that they are tried in (default 1)"
    )
    images.add_argument(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="--criterion sensitivity within --target-…: score anew N times on the way (default 1)",
    )
    images.add_argument(
        "--search-minutes",
        type=float,
        default=0.0,
        metavar="M",
        help="--criterion sensitivity within --target-…: improve the plan against the output distance for M minutes "
        "(Ctrl-C takes the best so far)",
    )
    images.add_argument("--data", metavar="F", help="labelled images: mAP of the result beside its control's")
    images.add_argument(
        "--unit-score",
        choices=("gamma", "separation"),
        default="gamma",
        help="--units: gamma (default), or how well a unit tells the classes apart on the training part of --data",
    )
    images.add_argument("--split", default="valid", help="which part of the data (default valid)")
    images.add_argument("--names", metavar="F", help="names of the classes, in order")


def check_arguments(args: Namespace) -> None:
    """Checks that the flags go together.

    Raises:
        UsageError: something needs images that are not given; flags that contradict each other.
    """
    if args.images is None:
        needing = [f"--criterion {args.criterion}"] if args.criterion in IMAGE_CRITERIA else []
        needing += [f"--recover {args.recover}"] if args.recover != "none" else []
        needing += ["--candidates"] if args.candidates is not None else []
        if needing:
            raise UsageError(f"{needing[0]} looks at images: give some with --images DIR (labels are not needed)")
    if args.plan_only and args.recover != "none":
        raise UsageError("--plan-only writes no weights: give --recover when the plan is replayed")
    budget = any(getattr(args, f"target_{kind}") for kind in UNITS)
    if args.rounds < 1 or (args.rounds > 1 and (args.criterion not in ("sensitivity", "first-order") or not budget)):
        raise UsageError(
            "--rounds N: give at least 1; more go with --criterion sensitivity and --target-macs, -params or -size"
        )
    if args.search_minutes < 0 or (args.search_minutes and (args.criterion not in GLOBAL_CRITERIA or not budget)):
        raise UsageError(
            "--search-minutes M: give a time, a criterion whose scores compare the whole network (--criterion "
            "sensitivity), and a budget with --target-macs, -params or -size"
        )
    if args.jobs < 1 or (args.jobs > 1 and (args.candidates is None or args.similarity)):
        raise UsageError("--jobs N: give at least 1; more go with --candidates, and not with --similarity")
    if args.unit_score != "gamma":
        if args.data is None or (args.units is None and args.unit_ratio is None):
            raise UsageError(f"--unit-score {args.unit_score} needs labelled images (--data F) and --units N")
        if args.candidates is not None or args.rounds > 1:
            raise UsageError(f"--unit-score {args.unit_score} does not go with --candidates or --rounds")
    if args.candidates is None:
        return
    if args.candidates < 1 or not budget:
        raise UsageError("--candidates N: give at least 1, and a budget with --target-macs, -params or -size")
    if args.criterion in IMAGE_CRITERIA or args.allocation is not None:
        which = " and ".join(IMAGE_CRITERIA)
        raise UsageError(
            f"--candidates draws allocations itself, and ranks by weights: leave out --allocation, --criterion {which}"
        )


def open_session(args: Namespace, graph: Graph, progress: Progress) -> Session | None:
    """Reads the unlabelled images, if there are any.

    Args:
        args: the command's arguments.
        graph: the unpruned network.
        progress: makes progress bars.

    Raises:
        UsageError: see `check_arguments`.
        DataError: the images cannot be used.
    """
    check_arguments(args)
    if args.images is None:
        return None
    needed = args.criterion in IMAGE_CRITERIA or args.recover != "none" or args.candidates is not None
    if args.allocation == "sensitivity" and not needed and find_spec("torch") is None:
        return None  # the groups' curves are measured in any program
    from darkprune.search.session import Session

    return Session(Path(args.images), graph, args.recover, progress)


def unit_scorer(args: Namespace, progress: Progress) -> UnitScorer:
    """Returns what scores residual units.

    Args:
        args: the command's arguments, checked.
        progress: makes progress bars.

    Raises:
        DataError: the labelled images cannot be read.
    """
    if args.unit_score == "gamma":
        return score_units
    from darkprune.data import read_dataset
    from darkprune.network.samples import batch_size
    from darkprune.scores.separation import IMAGES, score_by_separation

    dataset = read_dataset(args.data, "train", args.names)

    def score(weights: NetworkWeights, units: Sequence[Unit]) -> tuple[Unit, ...]:
        images = min(IMAGES, len(dataset))
        with progress("telling classes apart", -(-images // batch_size(weights.graph))) as bar:
            return score_by_separation(weights, units, dataset, progress=bar.update)

    return score


def labelled(args: Namespace) -> Dataset | None:
    """Reads the labelled images, if there are any.

    Raises:
        DataError: they cannot be read.
    """
    if args.data is None:
        return None
    from darkprune.data import read_dataset

    return read_dataset(args.data, args.split, args.names)
