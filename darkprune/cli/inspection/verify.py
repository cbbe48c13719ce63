"""`darkprune verify`: does the slim pair compute what it should?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from darkprune.api.pair import load
from darkprune.api.verify import VerifyResult, VerifySettings, verify, verify_run
from darkprune.cli.console import add_json, print_result, print_table
from darkprune.cli.flags import add_flags, read_flags
from darkprune.errors import UsageError
from darkprune.runners.verify import TOLERANCE, Difference


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.usage = "darkprune verify [CFG WEIGHTS] SLIM.cfg SLIM.weights | RUN [options]"
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
    if len(files) == 1 and not Path(files[0]).is_file():
        results = verify_run(files[0], settings)
    elif len(files) in (2, 4):
        results = {"": verify(load(*files[-2:]), load(*files[:2]) if len(files) == 4 else None, settings)}
    else:
        raise UsageError("verify takes CFG WEIGHTS SLIM.cfg SLIM.weights, or SLIM.cfg SLIM.weights, or a folder")
    statuses = {result.status for result in results.values()}
    status = 1 if 1 in statuses else max(statuses)
    whole = {name: result.to_json() for name, result in results.items()}
    data = whole.get("") or {"ok": all(result.ok for result in results.values()), "results": whole}
    refusals = dict.fromkeys(refusal for result in results.values() for refusal in result.refusals)
    warnings = [f"not taken as the referee: {refusal}" for refusal in refusals]
    try:
        print_result(
            args,
            data,
            warnings,
            lambda: _show(results, args.layers),
        )
    except BrokenPipeError:  # the reader of the pipe has gone; what was found stays so
        if status == 0:
            raise
    return status


def _show(results: dict[str, VerifyResult], every: bool) -> None:
    for number, (name, result) in enumerate(results.items()):
        if name:
            print(f"\n{name}:" if number else f"{name}:")
        _print(result, every)


def _print(result: VerifyResult, every: bool) -> None:
    problems, check = result.problems, result.numbers
    state = "fit each other" if not result.has_plan else "as the plan says"
    print("files: " + (f"{len(problems)} problem{'' if len(problems) == 1 else 's'}" if problems else state))
    for problem in problems:
        print(f"  {problem}")
    worst = None if check is None else check.worst_cut
    if check is None or worst is None:
        ran = f" (loaded and run in {result.runner})" if result.runner else ""
        said = f"nothing was run: {result.skipped}" if problems else result.describe()
        print(said + ran)
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
