"""What `darkprune prune` and its like measure before they decide: groups' curves, and latency."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprune.cli.console import following, progress
from darkprune.errors import UsageError
from darkprune.runners.base import RUNNERS
from darkprune.selection.curves import Curves
from darkprune.selection.decide import Ranking
from darkprune.selection.settings import PruneSettings

if TYPE_CHECKING:  # images and programs are loaded only where they are asked for
    from darkprune.data.dataset import Dataset


def add_latency(parser: ArgumentParser) -> None:
    """Adds the flags."""
    timed = parser.add_argument_group("measuring")
    timed.add_argument(
        "--target-latency",
        metavar="MS|F",
        help="what shall remain of the time, measured on --runner: milliseconds (12ms) or a fraction (0.6)",
    )
    timed.add_argument("--runner", choices=tuple(RUNNERS), help="program for latency and the groups' curves")
    timed.add_argument("--batch", type=int, default=1, help="images per run of --target-latency (default 1)")


@dataclass(frozen=True)
class WithCurves:
    """A ranking with the groups' curves.

    Attributes:
        ranking: with them.
        curves: themselves.
        kept_in: the file that has them for the next run.
        warnings: what was wrong with an earlier one.
    """

    ranking: Ranking
    curves: Curves
    kept_in: Path
    warnings: tuple[str, ...]


def with_curves(
    ranking: Ranking, settings: PruneSettings, dataset: Dataset | None, images: str | None, runner: str | None
) -> WithCurves:
    """Measures the curves of a ranking's groups, on labels if there are any, else on unlabelled images."""
    from darkprune.data.reading import divide_images, images_of
    from darkprune.search.group_curves import Material, measured_curves

    # of unlabelled images those that are held out judge the result
    paths = divide_images(images_of(Path(images)))[0] if dataset is None and images is not None else ()
    curves, cache = measured_curves(ranking, settings, Material.of(dataset, paths, runner), following)
    problems = (cache.problem,) if cache.problem else ()
    return WithCurves(replace(ranking, curves=curves), curves, cache.path, problems)


class Measured:
    """Measures what a decision needs, and keeps what was found.

    Attributes:
        report: for report.json and `--json`: `curves` and `latency`, as far as they were measured.
        warnings: for the user.
    """

    def __init__(self, args: Namespace, dataset: Callable[[], Dataset | None]) -> None:
        """Checks the flags.

        Raises:
            UsageError: flags that do not go together.
        """
        self.report: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._args, self._dataset = args, dataset
        latency = args.target_latency is not None
        if args.allocation == "sensitivity" and args.images is None and args.data is None:
            raise UsageError(
                "--allocation sensitivity measures each group: give --images DIR (unlabelled) or --data F (labelled)"
            )
        if latency and args.runner is None:
            raise UsageError(f"--target-latency is measured: say where with --runner {', '.join(RUNNERS)}")
        if args.batch < 1:
            raise UsageError(f"--batch {args.batch}: must be at least 1")
        if latency:
            from darkprune.search.latency import parse_latency

            self._target = parse_latency(args.target_latency)

    def adjust(self, ranking: Ranking, settings: PruneSettings) -> tuple[Ranking, PruneSettings]:
        """Puts curves into the ranking, and the ratio that meets a latency into the settings."""
        if settings.allocation == "sensitivity":
            found = with_curves(ranking, settings, self._dataset(), self._args.images, self._args.runner)
            ranking = found.ranking
            self.report["curves"] = {**found.curves.to_json(), "kept_in": str(found.kept_in)}
            self.warnings += found.warnings
        if self._args.target_latency is not None:
            from darkprune.search.latency import TRIALS, within_latency

            with progress(TRIALS, "measuring latency", "trial") as bar:
                settings, reached = within_latency(
                    ranking, settings, self._target, self._args.runner, self._args.batch, bar.update
                )
            self.report["latency"] = reached.to_json()
            self.warnings += reached.warnings()
        return ranking, settings



def print_measured(report: dict[str, Any]) -> None:
    """Says what was measured."""
    if "curves" in report:
        curves = report["curves"]
        print(f"\nsensitivity of the groups ({curves['metric']}), kept in {curves['kept_in']}")
    if "latency" in report:
        found = report["latency"]
        print(
            f"\nlatency on {found['runner']}, batch {found['batch']}: {found['reached_ms']:.2f} ms of "
            f"{found['original_ms']:.2f} (asked for: {found['target_ms']:.2f}; {len(found['trials'])} measurements, "
            f"uncertain by {100 * found['noise']:.1f} %)"
        )
