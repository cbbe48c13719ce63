"""`darkprune cliff`: how far a checkpoint can be pruned before it falls, beside the unpruned one at smaller inputs."""

from __future__ import annotations

from argparse import Namespace

from darkprune.api.cliff import CliffResult, CliffSettings, cliff
from darkprune.api.pair import load
from darkprune.cli.console import count, print_result, print_table
from darkprune.cli.flags import from_pair, read_flags
from darkprune.runners.measure import AGREEMENT, DISTANCE
from darkprune.sweep.points import Point, removed

configure = from_pair(CliffSettings, "DIR", "folder for cliff.csv and .json, and the curve")


def run(args: Namespace) -> int:
    """Sweeps the ratio, and prints what was measured."""
    result = cliff(load(args.cfg, args.weights), args.output, read_flags(CliffSettings, args))
    data = {**result.to_json(), "cfg": args.cfg, "weights": args.weights}
    print_result(args, data, result.warnings, lambda: _print(result))
    return 0


def _print(result: CliffResult) -> None:
    sweep = result.sweep
    is_share = sweep.metric != DISTANCE

    def show(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}" if is_share else f"{value:.4f}"

    def sizes(point: Point) -> tuple[str, str, str]:
        return count(point.params), count(point.macs), f"{100 * removed(point, sweep.base):.1f} %"

    rows: list[tuple[object, ...]] = []
    for first, last in zip(sweep.pruned.points, sweep.last.points, strict=True):
        verdict = {None: "-", True: "yes", False: "no"}[last.beats_control]
        values = [first.point.value, *([last.point.value] if sweep.recovered else []), last.control]
        rows.append((f"{first.point.ratio:g}", *sizes(first.point), *map(show, values), verdict))
    base = sweep.base
    blank = [""] * (3 if sweep.recovered else 2)
    rows.insert(0, ("unpruned", count(base.params), count(base.macs), "0 %", show(base.value), *blank))
    more = ["recovered"] if sweep.recovered else []
    print_table(("ratio", "parameters", "MACs", "removed", sweep.metric, *more, "control", "beats it"), rows)
    print("\ncontrol: the unpruned network at a smaller input")
    controls = [(f"{each.width}x{each.height}", *sizes(each)[1:], show(each.value)) for each in sweep.controls]
    print_table(("input", "MACs", "removed", sweep.metric), controls)
    print(f"\n{result.images} images, {result.runner}")
    if sweep.metric == AGREEMENT:
        print("agreement: mAP@0.5 against what the unpruned network detects (score above 0.05), on average over")
        print("its own input size and smaller ones")
    if sweep.metric == DISTANCE:
        print("distance: 0 is the same output, 1 as far as none at all; maps of another size are interpolated, which")
        print("counts against the control")
    for kind, curve in (("pruned", sweep.pruned), ("recovered", sweep.recovered)):
        if curve is not None and curve.fall is not None:
            fall = curve.fall
            print(
                f"cliff, {kind}: between ratio {fall.from_ratio:g} and {fall.to_ratio:g} {sweep.metric} "
                f"goes from {show(fall.before)} to {show(fall.after)}"
            )
    beats = sweep.last.beats_control_at
    if not beats:
        print("PRUNING DOES NOT PAY HERE: at equal operations the unpruned network at a smaller input is better at")
        print("every ratio; retrain or distil after pruning, use a better criterion, or take the smaller input")
    elif len(beats) < sum(each.control is not None for each in sweep.pruned.points):
        print("pruning beats the smaller input only at ratio " + ", ".join(f"{ratio:g}" for ratio in beats))
    print("written: " + ", ".join(map(str, result.outputs)))
