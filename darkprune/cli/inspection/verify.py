"""`darkprune verify`: does the slim pair compute what it should?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.api.verify import NOT_CHECKED, VerifyResult, VerifySettings, verify, verify_run
from darkprune.cli.console import add_json, print_json, print_table, warn
from darkprune.cli.flags import add_flags, read_flags
from darkprune.errors import UsageError
from darkprune.runners.verify import TOLERANCE, Difference


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="CFG WEIGHTS SLIM.cfg SLIM.weights: original and slim pair; SLIM.cfg SLIM.weights: the report beside them "
        "names the original; or RUN: a folder that prune, distill or compress wrote",
    )
    add_flags(parser, VerifySettings)
    parser.add_argument("--layers", action="store_true", help="show every layer, not only the outputs")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints what was found; exit status 1 if a pair is not what it should be, 3 if nothing was run."""
    settings, files = read_flags(VerifySettings, args), args.files
    if len(files) == 1:
        results = verify_run(files[0], settings)
    elif len(files) in (2, 4):
        results = {"": verify(load(*files[-2:]), load(*files[:2]) if len(files) == 4 else None, settings)}
    else:
        raise UsageError("verify takes CFG WEIGHTS SLIM.cfg SLIM.weights, or SLIM.cfg SLIM.weights, or a folder")
    statuses = {result.status for result in results.values()}
    status = 1 if 1 in statuses else max(statuses)
    try:
        _show(results, args)
    except BrokenPipeError:  # the reader of the pipe has gone; what was found stays so
        if status == 0:
            raise
    return status


def _show(results: dict[str, VerifyResult], args: Namespace) -> None:
    if args.json:
        whole = {name: result.to_json() for name, result in results.items()}
        print_json(whole.get("") or {"ok": all(result.ok for result in results.values()), "results": whole})
        return
    for number, (name, result) in enumerate(results.items()):
        if name:
            print(f"\n{name}:" if number else f"{name}:")
        _print(result, args.layers)


def _print(result: VerifyResult, every: bool) -> None:
    problems, check = result.problems, result.numbers
    print("files: " + ("as the plan says" if not problems else f"{len(problems)} problems"))
    for problem in problems:
        print(f"  {problem}")
    for refusal in result.refusals:
        warn(f"not taken as the referee: {refusal}")
    worst = None if check is None else check.worst_cut
    if check is None or worst is None:
        ran = f" (loaded and run in {result.runner})" if result.runner else ""
        said = f"nothing was run: {result.skipped}" if problems else result.describe()
        (warn if result.status == NOT_CHECKED or problems else print)(said + ran)
        return
    images = f"{check.images} image{'s' if check.images > 1 else ''}"
    print(
        f"numbers ({check.runner}, {images}): {result.describe()}: largest relative difference from the masked "
        f"original {worst.relative:.1e} (layer {worst.layer}; tolerance {TOLERANCE:g})"
    )
    shown = check.compensation if every else [d for d in check.compensation if d.layer in check.outputs]
    print("\nwhat the compensation leaves, against the original with the removed channels held at their constants")
    print_table(("layer", "absolute", "relative", "at borders", "inside"), [_row(difference) for difference in shown])


def _row(d: Difference) -> tuple[object, ...]:
    return d.layer, f"{d.absolute:.3g}", f"{d.relative:.1e}", f"{d.border:.1e}", f"{d.interior:.1e}"
