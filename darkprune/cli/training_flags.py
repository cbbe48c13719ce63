"""What `train` and `distill` are told on the command line, apart from what only one of them knows."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.errors import UsageError
from darkprune.selection.allocation import ALLOCATIONS
from darkprune.selection.importance import CRITERIA
from darkprune.selection.settings import PruneSettings
from darkprune.selection.voting import MERGES
from darkprune.training.gradual.timetable import QUANTITIES, SCHEDULES, GradualSettings

if TYPE_CHECKING:  # these import torch, which --help can do without
    from darkprune.training.data.run_data import DataRequest
    from darkprune.training.loop.session import RunRequest
    from darkprune.training.recipe.recipe import Changes

_ALLOCATIONS = tuple(name for name in ALLOCATIONS if name != "explicit")  #: those that one ratio decides


def add_data(parser: ArgumentParser, required: bool) -> None:
    """Adds what says where the images are."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", required=required, metavar="F", help="a .data file, an image list, a Pascal VOC folder, or COCO JSON"
    )
    data.add_argument("--valid", metavar="F", help="another set to measure mAP on (default: the data's own)")
    data.add_argument("--names", metavar="F", help="names of the classes, in order")
    data.add_argument("--strict", action="store_true", help="stop at anything wrong with labels or images")
    data.add_argument("--workers", type=int, metavar="N", help="processes that prepare images (default: one per core)")
    data.add_argument("--no-cache", action="store_true", help="do not keep decoded images in memory")


def add_keys(parser: ArgumentParser) -> None:
    """Adds what changes the cfg's training keys."""
    keys = parser.add_argument_group("instead of the cfg's keys")
    length = keys.add_mutually_exclusive_group()
    length.add_argument("--iterations", type=int, metavar="N", help="steps (max_batches); steps= and burn_in= follow")
    length.add_argument("--epochs", type=float, metavar="N", help="the same in passes over the images")
    keys.add_argument("--batch", type=int, help="images per step")
    keys.add_argument("--subdivisions", type=int, help="parts that a step is computed in")
    keys.add_argument("--lr", type=float, help="learning rate")
    keys.add_argument("--policy", choices=("cfg", "cosine", "constant"), help="schedule; cosine falls to 5 %%")
    keys.add_argument("--burn-in", type=int, help="steps in which the rate rises")
    keys.add_argument("--momentum", type=float)
    keys.add_argument("--decay", type=float)
    keys.add_argument("--adam", action=BooleanOptionalAction, default=None)
    keys.add_argument("--multi-scale", type=float, metavar="R", help="random= of the head; 0 for one size")
    keys.add_argument("--mosaic", action=BooleanOptionalAction, default=None)
    keys.add_argument("--mixup", action=BooleanOptionalAction, default=None)
    keys.add_argument("--flip", action=BooleanOptionalAction, default=None)
    keys.add_argument("--no-augment", action="store_true", help="images as they are")
    keys.add_argument(
        "--frozen-bn",
        action=BooleanOptionalAction,
        default=None,
        help="normalise by the running statistics, which stay: for few images (default: for distill --unlabelled)",
    )
    keys.add_argument("--ema", type=float, metavar="A", help="average the weights with this share of the old, 0.999")


def add_run(parser: ArgumentParser) -> None:
    """Adds what changes the cfg's keys, and how the run is carried out."""
    add_keys(parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--size", metavar="WxH", help="another input size than the cfg's")
    run.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for weights, state, log and curves")
    run.add_argument("--resume", action="store_true", help="go on with the run in DIR, exactly where it was")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    run.add_argument("--freeze", type=int, default=0, metavar="N", help="leave the first N layers exactly as they are")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    run.add_argument("--precision", choices=("full", "bf16", "fp16"), help="default: fp16 on GPUs, else full")
    run.add_argument("--save-every", type=int, default=100, metavar="N", help="steps between states (default 100)")
    run.add_argument("--keep-every", type=int, metavar="N", help="steps between weights that stay (1000, or 10000)")
    run.add_argument("--eval-every", type=int, metavar="N", help="steps between measurements (an epoch, at least 100)")
    run.add_argument("--no-tensorboard", action="store_true", help="write no TensorBoard events")


def add_pruning(parser: ArgumentParser) -> None:
    """Adds what prunes the network while it learns; `--groups` is left to the command."""
    gradual = parser.add_argument_group("pruning inside the run")
    gradual.add_argument(
        "--prune-to",
        type=float,
        metavar="F",
        help="what shall remain of the network, as a fraction (0.5): slimmer step by step, while it learns",
    )
    gradual.add_argument("--prune-of", choices=QUANTITIES, help="of which quantity (default macs)")
    gradual.add_argument("--prune-from", type=float, metavar="E", help="epoch at which it begins (a tenth of the run)")
    gradual.add_argument("--prune-until", type=float, metavar="E", help="epoch at which it is done (six tenths)")
    gradual.add_argument("--prune-every", type=float, metavar="E", help="epochs between cuts (a tenth of the way)")
    gradual.add_argument("--prune-schedule", choices=tuple(SCHEDULES), help="how what is gone rises (default cubic)")
    gradual.add_argument("--prune-criterion", choices=CRITERIA, help="score of a channel (default bn_gamma)")
    gradual.add_argument("--prune-allocation", choices=_ALLOCATIONS, help="how it is shared out (default uniform)")
    gradual.add_argument("--prune-merge", choices=MERGES, help="public mask of coupled convolutions (default vote)")
    gradual.add_argument("--prune-round-to", type=int, metavar="N", help="widths in multiples of N where possible")
    gradual.add_argument("--prune-min-channels", type=int, metavar="N", help="fewest channels of a convolution (8)")
    gradual.add_argument("--prune-exclude", metavar="L1,L2,…", help="layers whose channels all stay")


def pruning_of(args: Namespace) -> GradualSettings | None:
    """Returns how to prune inside the run; None where it is not asked for.

    Raises:
        UsageError: a value that makes no sense, or a flag that is left alone.
    """
    given = {
        name.removeprefix("prune_"): value
        for name, value in vars(args).items()
        if name.startswith("prune_") and value is not None
    }
    if "to" not in given:
        if given:
            raise UsageError(f"--prune-{next(iter(given)).replace('_', '-')} belongs to --prune-to F")
        return None
    try:
        exclude = tuple(int(part) for part in given.pop("exclude", "").split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--prune-exclude {args.prune_exclude[:60]}: give layers separated by commas") from None
    exclude += tuple(range(args.freeze))  # frozen layers stay exactly as they are
    names = {"to": "remaining", "of": "of", "from": "start", "until": "until", "every": "every", "schedule": "schedule"}
    when = {names[name]: value for name, value in given.items() if name in names}
    which = {name: value for name, value in given.items() if name not in names}
    return GradualSettings(**when, prune=PruneSettings(groups=args.groups, exclude=exclude, **which))


def changes_of(args: Namespace) -> Changes:
    """Returns what the user wants otherwise than the cfg.

    Raises:
        UsageError: a value that makes no sense.
    """
    from darkprune.training.recipe.recipe import Changes

    for name in ("iterations", "epochs", "batch", "subdivisions", "lr", "save_every", "keep_every", "eval_every"):
        value = getattr(args, name, None)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value:g} must be larger than 0")
    if getattr(args, "seed", 0) < 0:
        raise UsageError(f"--seed {args.seed} must not be negative")
    return Changes(
        steps=args.iterations,
        epochs=args.epochs,
        batch=args.batch,
        parts=args.subdivisions,
        rate=args.lr,
        policy=None if args.policy == "cfg" else args.policy,
        burn_in=args.burn_in,
        momentum=args.momentum,
        decay=args.decay,
        adam=args.adam,
        multi_scale=args.multi_scale,
        mosaic=args.mosaic,
        mixup=args.mixup,
        flip=args.flip,
        augment=not args.no_augment,
        ema=args.ema,
        frozen_bn=getattr(args, "unlabelled", None) is not None if args.frozen_bn is None else args.frozen_bn,
    )


def requests_of(args: Namespace) -> tuple[DataRequest, RunRequest]:
    """Returns where the images are, and how the run is to go."""
    from darkprune.training.data.run_data import DataRequest
    from darkprune.training.loop.session import RunRequest

    data = DataRequest(args.data, args.valid, args.names, getattr(args, "unlabelled", None), args.strict)
    if args.resume and args.overwrite:
        raise UsageError("--resume goes on with a run, --overwrite replaces it; give one of them")
    return data, RunRequest(
        output=Path(args.output),
        device=args.device,
        precision=args.precision,
        workers=args.workers,
        seed=args.seed,
        freeze=args.freeze,
        resume=args.resume,
        overwrite=args.overwrite,
        save_every=args.save_every,
        keep_every=args.keep_every,
        eval_every=args.eval_every,
        cache=not args.no_cache,
        board=not args.no_tensorboard,
        quiet=getattr(args, "quiet", args.json and not sys.stderr.isatty()),
    )
