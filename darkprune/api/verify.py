"""`verify`: whether a slim network computes what its plan means."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkprune.api.pair import Network, Pair, on_disk
from darkprune.errors import PlanError, RunnerError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.progress import Progress, reporting
from darkprune.runners.base import RUNNERS
from darkprune.runners.verify import TOLERANCE, Difference, NumericCheck, check_numbers
from darkprune.runs.digests import digest_of_file
from darkprune.settings import PathLike, setting
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.static_check import static_problems
from darkprune.surgery.surgery import Surgery


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """How a slim network is checked."""

    plan: PathLike | None = setting(None, "the plan", metavar="FILE", default_text="plan.json beside SLIM.cfg")
    static: bool = setting(False, "compare the files only, run nothing")
    image: tuple[str, ...] = setting((), "an image to run", metavar="FILE", repeated=True, default_text="one of noise")
    runner: str | None = setting(None, "program to run the networks in", choices=tuple(RUNNERS))


@dataclass(frozen=True)
class VerifyResult:
    """What was found.

    Attributes:
        problems: what is wrong with the files; empty if nothing.
        numbers: what running the networks showed; None where nothing was run.
        skipped: why nothing was run.
    """

    problems: tuple[str, ...]
    numbers: NumericCheck | None
    skipped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.problems and (self.numbers is None or self.numbers.ok)

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        static = {"ok": not self.problems, "problems": list(self.problems)}
        check = self.numbers
        if check is None:
            return {"ok": self.ok, "static": static, "numeric": None, "skipped": self.skipped}
        worst = check.worst_cut
        numeric = {
            "ok": check.ok,
            "runner": check.runner,
            "images": check.images,
            "tolerance": TOLERANCE,
            "worst_layer": _difference_json(worst) if worst else None,
            "cut": [_difference_json(difference) for difference in check.cut],
            "compensation": [_difference_json(difference) for difference in check.compensation],
            "outputs": list(check.outputs),
        }
        return {"ok": self.ok, "static": static, "numeric": numeric}


def verify(
    slim: Network,
    original: Pair | None = None,
    settings: VerifySettings | None = None,
    *,
    progress: Progress | None = None,
) -> VerifyResult:
    """Checks a slim network: its files, and its numbers against the original in an independent program.

    Args:
        slim: the pruned network; for a pair on disk its plan lies beside it, or `settings.plan` names it.
        original: the pair before; of a surgery it is known.
        settings: what to run.
        progress: gets an event per network; by default a bar is shown.

    Raises:
        PlanError: the plan cannot be read, or is for other files; no original is given.
        WeightsError: a weights file does not fit its cfg.
        RunnerError: `settings.runner` does not take the network.
    """
    settings = settings or VerifySettings()
    with reporting(progress) as report, on_disk(slim) as pair:
        if isinstance(slim, Surgery):
            return _check(slim, slim.base, pair, settings, report)
        if original is None:
            raise PlanError(f"{pair.cfg}: say what it was pruned from: verify(slim, original)")
        with original.open() as weights:
            surgery = _replayed(weights, pair, settings)
            return _check(surgery, surgery.base if surgery else weights, pair, settings, report)


def _replayed(weights: NetworkWeights, slim: Pair, settings: VerifySettings) -> Surgery | None:
    """Returns the surgery that the plan beside a slim pair describes; None where there is no plan."""
    path = Path(settings.plan) if settings.plan else slim.cfg.parent / "plan.json"
    if settings.plan is None and not path.exists():
        return None
    hashes = digest_of_file(Path(weights.graph.cfg.source)), digest_of_file(weights.path)
    return replay(weights, read_plan(path), hashes)


def _check(
    surgery: Surgery | None, base: TensorSource, slim: Pair, settings: VerifySettings, progress: Progress
) -> VerifyResult:
    report = slim.cfg.parent / "report.json"
    with slim.open() as weights:
        cut = surgery.cut if surgery else None
        problems = tuple(static_problems(base, weights, cut, report if report.exists() else None))
    if settings.static:
        return VerifyResult(problems, None, "--static was given")
    if surgery is None:
        reason = "there is no plan.json beside the slim cfg, so that it is not known which channels went; give --plan"
        return VerifyResult(problems, None, reason)
    if problems:
        return VerifyResult(problems, None, "the files are not what they should be")
    images = _images(settings.image, surgery.original.graph)
    try:
        numbers = check_numbers(surgery, slim.weights_file, images, settings.runner, progress)
    except RunnerError as error:
        if settings.runner:
            raise
        return VerifyResult(problems, None, f"no program at hand runs this network: {error}")
    return VerifyResult(problems, numbers)


def _images(paths: tuple[str, ...], graph: Graph) -> list[NDArray[np.float32]]:
    shape = graph.net.input
    if not shape.is_map:
        raise RunnerError("the network reads no image; use --static")
    if not paths:
        # smooth noise: neighbouring pixels of a photograph are alike
        random = np.random.default_rng(0)
        coarse = random.random((shape.c, -(-shape.h // 8), -(-shape.w // 8)), np.float32)
        noise = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : shape.h, : shape.w]
        return [np.ascontiguousarray(noise)]
    from darkprune.data.images import read_image, resize

    return [resize(read_image(Path(path), shape.c), shape.w, shape.h) for path in paths]


def _difference_json(difference: Difference) -> dict[str, object]:
    """Returns the fields; null where a network gives NaN or infinite values, which JSON does not have."""
    return {key: value if isfinite(value) else None for key, value in asdict(difference).items()}
