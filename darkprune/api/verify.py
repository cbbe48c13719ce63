"""`verify`: whether a slim network computes what its plan means."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from darkprune.api.pair import Network, Pair, on_disk
from darkprune.errors import DataError, PlanError, RunnerError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.pages.contents import find_original, read_contents
from darkprune.progress import Progress, reporting
from darkprune.runners.base import RUNNERS, load_with_any
from darkprune.runners.verify import TOLERANCE, Difference, NumericCheck, check_numbers
from darkprune.runs import provenance
from darkprune.runs.digests import digest_of_file
from darkprune.runs.history import History, history_of
from darkprune.settings import PathLike, Settings, setting
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.static_check import static_problems
from darkprune.surgery.surgery import Surgery

NOT_CHECKED = 3  #: exit status where nothing was run


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Settings):
    """How a slim network is checked."""

    plan: PathLike | None = setting(None, "the plan", metavar="FILE", default_text="plan.json beside SLIM.cfg")
    static: bool = setting(False, "compare the files only, run nothing")
    image: tuple[str, ...] = setting((), "an image to run", metavar="FILE", repeated=True, default_text="one of noise")
    runner: str | None = setting(
        None, "program to run the networks in", choices=tuple(RUNNERS), default_text="the first that can"
    )


Verdict = Literal["right", "wrong", "files right", "not compared", "not checked"]
#: verdict -> what is said of it
VERDICTS: dict[Verdict, str] = {
    "right": "the cut is right",
    "wrong": "THE CUT IS WRONG",
    "files right": "the files are right; nothing was run",
    "not compared": "widths and wiring are right; the weights were {changed}, so that numbers are not compared",
    "not checked": "NOT CHECKED",
}


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What was found.

    Attributes:
        problems: what is wrong with the files; empty if nothing.
        numbers: what running the networks showed; None where they were not compared.
        changed: what was done with the weights since the cut: `refitted`, `trained`; empty if nothing.
        runner: program that ran the slim network; empty if none did.
        refusals: programs that do not take it, and why.
        skipped: why nothing was run; empty if something was.
        static: only the files were to be compared.
        has_plan: whether it is known which channels went.
    """

    problems: tuple[str, ...] = ()
    numbers: NumericCheck | None = None
    changed: str = ""
    runner: str = ""
    refusals: tuple[str, ...] = ()
    skipped: str = ""
    static: bool = False
    has_plan: bool = True

    @property
    def verdict(self) -> Verdict:
        """The outcome in a word."""
        if self.problems:
            return "wrong"
        if self.static:
            return "files right"
        if self.changed and self.runner:
            return "not compared"
        if self.numbers is None or self.numbers.worst_cut is None:
            return "not checked"
        return "right" if self.numbers.ok else "wrong"

    @property
    def ok(self) -> bool:
        """Whether what was to be checked is right."""
        return self.verdict not in ("wrong", "not checked")

    @property
    def status(self) -> int:
        """The exit status of `darkprune verify`: 0 right, 1 wrong, 3 not checked."""
        return {"wrong": 1, "not checked": NOT_CHECKED}.get(self.verdict, 0)

    def describe(self) -> str:
        """Returns the verdict in words."""
        if self.verdict == "not checked" and self.numbers is not None:
            return f"{VERDICTS['not checked']}: runner {self.runner} shows no layer to compare"
        if self.verdict == "not checked":
            return f"{VERDICTS['not checked']}: {self.skipped}"
        return VERDICTS[self.verdict].format(changed=self.changed)

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        data: dict[str, object] = {
            "ok": self.ok,
            "verdict": self.verdict,
            "static": {"ok": not self.problems, "problems": list(self.problems)},
            "changed": self.changed or None,
            "runner": self.runner or None,
            "refusals": list(self.refusals),
            "numeric": None,
        }
        check = self.numbers
        if check is None:
            return {**data, "skipped": self.skipped or None}
        worst = check.worst_cut
        data["numeric"] = {
            "ok": check.ok,
            "runner": check.runner,
            "images": check.images,
            "tolerance": TOLERANCE,
            "worst_layer": _difference_json(worst) if worst else None,
            "cut": [_difference_json(difference) for difference in check.cut],
            "compensation": [_difference_json(difference) for difference in check.compensation],
            "outputs": list(check.outputs),
        }
        return data


def verify(
    slim: Network,
    original: Pair | None = None,
    settings: VerifySettings | None = None,
    *,
    progress: Progress | None = None,
) -> VerifyResult:
    """Checks a slim network: its files, and its numbers against the original in an independent program.

    Weights that were refitted or trained since the cut are meant to differ from it: then widths and wiring are
    compared, and the network is loaded and run.

    Args:
        slim: the pruned network; for a pair on disk its plan lies beside it, or `settings.plan` names it.
        original: the pair before; of a surgery it is known, and of a pair where the report beside it names it.
        settings: what to run.
        progress: gets an event per network; by default a bar is shown.

    Raises:
        PlanError: the plan cannot be read, or is for other files; the original is not known.
        WeightsError: a weights file does not fit its cfg.
        RunnerError: `settings.runner` does not take the network.
    """
    settings = settings or VerifySettings()
    with reporting(progress), on_disk(slim) as pair:
        if isinstance(slim, Surgery):
            changed = "refitted" if slim.recovered is not None else ""
            return _check(slim, slim.base, pair, changed, settings)
        history = history_of(pair.cfg, pair.weights_file)
        original = original or _recorded_original(pair, history)
        with original.open() as weights:
            surgery, other = _replayed(weights, pair, settings, history)
            base = surgery.base if surgery else weights
            changed = "trained" if other else _how_changed(pair, weights, history)
            return _check(surgery, base, pair, changed, settings)


def verify_run(
    run: PathLike, settings: VerifySettings | None = None, *, progress: Progress | None = None
) -> dict[str, VerifyResult]:
    """Checks every pruned network in a run's folder.

    Args:
        run: a folder that `prune`, `train`, `distill` or `compress` wrote.
        settings: what to run.
        progress: gets an event per network; by default a bar is shown.

    Returns:
        Name of a result -> what was found.

    Raises:
        DataError: the folder holds no pruned network.
    """
    contents = read_contents(Path(run))
    pairs = [(part.name, part.pair) for part in contents.results]
    if contents.manifest:
        pairs.append(("result", contents.slim))
    known = find_original(contents)
    found: dict[str, VerifyResult] = {}
    for name, files in pairs:
        history = None if files is None else history_of(files.cfg, files.weights)
        if files is None or history is None:
            continue  # a training of the unpruned network, or that network at a smaller input
        pair, original = Pair(files.cfg, files.weights), None
        if not _has_original(history):
            if known is None:
                found[name] = VerifyResult(skipped="the network that it was pruned from is not found")
                continue
            original = Pair(known.cfg, known.weights)
        found[name] = verify(pair, original, settings)
    if not found:
        raise DataError(f"{run}: holds no pruned network; give a folder that darkprune prune or compress wrote")
    return found


def _original_paths(history: History) -> list[Path]:
    """Returns where the pair was that the cut was made of."""
    return [Path(history.report["inputs"][kind]["path"].text) for kind in ("cfg", "weights")]


def _has_original(history: History) -> bool:
    return all(path.is_file() for path in _original_paths(history))


def _recorded_original(slim: Pair, history: History | None) -> Pair:
    """Returns the pair that records name as the original of a slim one.

    Raises:
        PlanError: none is named, or it is not there any more.
    """
    if history is None or not _has_original(history):
        raise PlanError(f"{slim.cfg}: give what it was pruned from: darkprune verify CFG WEIGHTS SLIM.cfg SLIM.weights")
    return Pair(*_original_paths(history))


def _replayed(
    weights: NetworkWeights, slim: Pair, settings: VerifySettings, history: History | None
) -> tuple[Surgery | None, bool]:
    """Returns the surgery that the plan of a slim pair describes, and whether it was made for other weights.

    There is none without a plan. A plan for other weights of the same network (such as sparsely trained ones) still
    says which widths the slim one has.
    """
    path = Path(settings.plan) if settings.plan else (history.cut if history else slim.cfg.parent) / "plan.json"
    if settings.plan is None and not path.exists():
        return None, False
    plan, cfg = read_plan(path), digest_of_file(Path(weights.graph.cfg.source))
    found = digest_of_file(weights.path)
    other = _is_trained(slim, weights) and found != plan.weights_sha256
    return replay(weights, plan, (cfg, None if other else found)), other


def _how_changed(slim: Pair, original: NetworkWeights, history: History | None) -> str:
    """Returns what was done with the slim weights since the cut, as far as records and files show it."""
    own = "" if history is None else history.report["outputs"]["weights"]["name"].text
    if history is not None and (history.changed or own == slim.weights_file.name):
        return history.changed
    return "trained" if _is_trained(slim, original) else ""


def _is_trained(slim: Pair, original: NetworkWeights) -> bool:
    """Returns whether slim weights were trained: they lie in the folder of a training, or have seen other images."""
    if slim.cfg.with_name(provenance.NAME).is_file():
        return True
    with slim.open() as weights:
        return weights.header.seen != original.header.seen


def _check(
    surgery: Surgery | None, base: TensorSource, slim: Pair, changed: str, settings: VerifySettings
) -> VerifyResult:
    report = slim.cfg.parent / "report.json"
    with slim.open() as weights:
        cut = surgery.cut if surgery else None
        beside = report if report.exists() else None
        problems = tuple(static_problems(base, weights, cut, beside, trained=changed == "trained"))
    found = VerifyResult(problems=problems, changed=changed, static=settings.static, has_plan=surgery is not None)
    if problems:
        return replace(found, skipped="the files are not what they should be")
    if settings.static:
        return replace(found, skipped="--static was given")
    if surgery is None:
        reason = "there is no plan.json beside the slim cfg, so that it is not known which channels went; give --plan"
        return replace(found, skipped=reason)
    refusals: list[str] = []
    try:
        images = _images(settings.image, slim.graph)
        if changed:
            runner, loaded = load_with_any(slim.graph, slim.weights_file, settings.runner, refusals=refusals)
            maps = [values for image in images for values in loaded.outputs(image).values()]
            if not all(np.isfinite(values).all() for values in maps):
                return replace(found, problems=(f"{slim.weights}: its outputs in {runner} are not finite numbers",))
            return replace(found, runner=runner, refusals=tuple(refusals))
        numbers = check_numbers(surgery, slim.weights_file, images, settings.runner, refusals)
    except RunnerError as error:
        if settings.runner:
            raise
        return replace(found, skipped=f"no program at hand runs this network: {error}")
    return replace(found, numbers=numbers, runner=numbers.runner, refusals=tuple(refusals))


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
