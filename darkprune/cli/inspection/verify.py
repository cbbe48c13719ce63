"""`darkprune verify`: does the slim pair compute what it should?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from darkprune.api.pair import load
from darkprune.api.verify import VerifyResult, VerifySettings, verify
from darkprune.cli.console import add_json, print_json, print_table, warn
from darkprune.cli.flags import add_flags, read_flags
from darkprune.runners.verify import TOLERANCE, Difference


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("cfg", metavar="CFG", help="the original .cfg")
    parser.add_argument("weights", metavar="WEIGHTS", help="its .weights")
    parser.add_argument("slim_cfg", metavar="SLIM.cfg", help="the pruned .cfg")
    parser.add_argument("slim_weights", metavar="SLIM.weights", help="its .weights")
    add_flags(parser, VerifySettings)
    parser.add_argument("--layers", action="store_true", help="show every layer, not only the outputs")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints what was found; exit status 1 if the pair is not what it should be."""
    slim, original = load(args.slim_cfg, args.slim_weights), load(args.cfg, args.weights)
    result = verify(slim, original, read_flags(VerifySettings, args))
    if args.json:
        print_json(result.to_json())
    else:
        _print(result, args.layers)
    return 0 if result.ok else 1


def _print(result: VerifyResult, every: bool) -> None:
    problems, check = result.problems, result.numbers
    print("files: " + ("as the plan says" if not problems else f"{len(problems)} problems"))
    for problem in problems:
        print(f"  {problem}")
    if check is None:
        warn(f"nothing was run: {result.skipped}")
        return
    worst = check.worst_cut
    if worst is None:
        warn(f"runner {check.runner} shows no layer to compare")
        return
    verdict = "the cut is right" if check.ok else "THE CUT IS WRONG"
    print(
        f"numbers ({check.runner}, {check.images} image{'s' if check.images > 1 else ''}): {verdict}: largest relative "
        f"difference from the masked original {worst.relative:.1e} (layer {worst.layer}; tolerance {TOLERANCE:g})"
    )
    shown = check.compensation if every else [d for d in check.compensation if d.layer in check.outputs]
    print("\nwhat the compensation leaves, against the original with the removed channels held at their constants")
    print_table(("layer", "absolute", "relative", "at borders", "inside"), [_row(difference) for difference in shown])


def _row(d: Difference) -> tuple[object, ...]:
    return d.layer, f"{d.absolute:.3g}", f"{d.relative:.1e}", f"{d.border:.1e}", f"{d.interior:.1e}"
