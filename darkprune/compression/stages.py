"""What stages `darkprune compress` goes through, with which settings, for what the user has.

| given | stages |
|---|---|
| labels | sparse training → pruning → least-squares recovery → distillation → mAP → ONNX or kit |
| images | pruning by sensitivity → least-squares recovery → label-free distillation → output distance → ONNX or kit |
| the pair alone | the same on drawn scenes, without distillation and measurement |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkprune.compression.defaults import (
    COMMANDS,
    EITHER,
    HOW,
    HOW_MUCH,
    RECIPE,
    SPARSE_EPOCHS,
    TUNE_EPOCHS,
    UNLABELLED_EPOCHS,
    UNLABELLED_RATE,
    Value,
    steps_for,
)
from darkprune.compression.given import Given
from darkprune.errors import UsageError
from darkprune.kit.schema import ONNX_NAME
from darkprune.runs.stages import FileSource, Source, Stage


@dataclass(frozen=True)
class Wish:
    """What a user wants.

    Attributes:
        how_much: flags of `prune` from the command line that say how much.
        target: what the result is to run on.
        board: whether that is a board, so that a kit is written.
        skip: stages to leave out.
        settings: stage -> flags.
        how: flags that do not change a result, for training.
    """

    how_much: Mapping[str, Value]
    target: str | None
    board: bool
    skip: frozenset[str]
    settings: Mapping[str, Mapping[str, Value]]
    how: Mapping[str, Value]


@dataclass(frozen=True)
class Pair:
    """A network on its way.

    Attributes:
        name: `original`, `sparse`, `pruned`, …
        cfg, weights: its files.
        made_by: the stage; empty for the original.
    """

    name: str
    cfg: Path
    weights: Path
    made_by: str = ""

    def sources(self, role: str = "") -> tuple[FileSource, FileSource]:
        """Returns the files as something to read."""
        return FileSource(f"{role}cfg", self.cfg), FileSource(f"{role}weights", self.weights)


class Compression:
    """The stages of a run, and the networks that they make.

    Attributes:
        stages: in order.
        networks: the original, and what each stage makes of it.
        result: the pair at the end: a copy of the best of `candidates`.
    """

    def __init__(self, original: Pair, folder: Path, given: Given, wish: Wish) -> None:
        """Plans a run.

        Args:
            original: the user's pair.
            folder: of the run.
            given: what there is to work with.
            wish: what is wanted.

        Raises:
            UsageError: nothing says how much to remove; a stage is asked for that lacks what it needs.
        """
        self.original, self.folder, self.given, self.wish = original, folder, given, wish
        self.stages: list[Stage] = []
        self.networks = [original]
        self.measuring: dict[str, Value] = {}
        self._check()
        if self._on("sparse", given.train is not None):
            self._sparse()
        self._prune()
        plan = self.folder / "pruned" / "plan.json"
        if self._on("recover", given.images is not None and given.detector):
            self._recover(plan)
        if self._on("distill", given.detector and (given.train is not None or given.learns_enough)):
            self._distill(plan)
        if self._on("finetune", False):
            self._finetune()
        if self._on("evaluate", given.detector and (given.valid or given.held_out) is not None):
            self._evaluate()
        self.result = self._result()
        if self._on("export", True):
            self._export()

    @property
    def current(self) -> Pair:
        """The network as it stands."""
        return self.networks[-1]

    def _check(self) -> None:
        settings = self.wish.settings
        if "prune" in self.wish.skip:
            raise UsageError("--skip prune: a run without pruning is darkprune train, distill or export by itself")
        said = {*self.wish.how_much, *settings.get("prune", {})}
        if not said & {*HOW_MUCH, "units", "unit-ratio", "similarity"}:
            raise UsageError(
                "say how much shall remain with --target-macs 0.5, --target-params 24M or --target-size 90MB, or how "
                "much to remove with --ratio 0.4"
            )
        needing = [name for name in ("sparse", "finetune") if name in settings and self.given.train is None]
        if needing:
            raise UsageError(f"[{needing[0]}] trains on labels: give some with --data F, or leave the section out")

    def _on(self, stage: str, default: bool) -> bool:
        return stage not in self.wish.skip and (default or stage in self.wish.settings)

    def _flags(self, stage: str, defaults: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
        """Puts defaults and settings together; returns what decides the result, and what does not."""
        own = self.wish.settings.get(stage, {})
        for group in EITHER:
            if any(name in own for name in group):
                defaults = {name: value for name, value in defaults.items() if name not in group}
        flags = {**defaults, **own}
        how = {name: flags.pop(name) for name in HOW if name in flags}
        return flags, {**self.wish.how, **how} if COMMANDS[stage] in ("train", "distill") else how

    def _add(
        self,
        name: str,
        step: str,
        reads: tuple[Source, ...],
        flags: tuple[Mapping[str, Value], Mapping[str, Value]],
        output: Path | None = None,
        files: tuple[Path, ...] = (),
        own: bool = False,
    ) -> None:
        """Adds a stage; `flags` are those that decide its result, and those that do not."""
        chosen, how = flags
        words = () if own else ("darkprune", step, *arguments(reads, {**chosen, **how}, output))
        settings = {key: str(value) for key, value in sorted(chosen.items()) if not isinstance(value, FileSource)}
        self.stages.append(
            Stage(
                name=name,
                step=step,
                settings=settings,
                sources=(*reads, *(value for value in chosen.values() if isinstance(value, FileSource))),
                command=words,
                output=output,
                files=files,
                state=output / "state.pt" if output is not None and step in ("train", "distill") else None,
            )
        )

    def _labels(self) -> dict[str, Value]:
        """Returns the flags that say where labelled images are."""
        assert self.given.train is not None
        return {"data": self.given.train[0], **self._named(), **self._valid()}

    def _named(self) -> dict[str, Value]:
        return {} if self.given.names is None else {"names": FileSource("names", self.given.names)}

    def _valid(self) -> dict[str, Value]:
        given = self.given
        own = given.train is not None and given.valid is given.train[0]
        return {} if given.valid is None or own else {"valid": given.valid}

    def _train(self, stage: str, command: str, reads: tuple[Source, ...], flags: dict[str, Value], place: str) -> None:
        """Adds a training stage."""
        own, how = self._flags(stage, flags)
        output = self.folder / place
        stem = self.original.cfg.stem
        made = Pair(place, output / f"{stem}.cfg", output / f"{stem}_final.weights", stage)
        self._add(stage, command, reads, (own, how), output, (made.cfg, made.weights))
        self.networks.append(made)

    def _sparse(self) -> None:
        assert self.given.train is not None
        length = steps_for(SPARSE_EPOCHS, self.given.train[1])
        flags = {**RECIPE, "iterations": length, "sparsity": "dynamic", "s": "auto", **self._labels()}
        self._train("sparse", "train", self.current.sources(), flags, "sparse")

    def _prune(self) -> None:
        given, wish = self.given, self.wish
        own = wish.settings.get("prune", {})
        how_much = wish.how_much or {name: own[name] for name in HOW_MUCH if name in own}
        flags: dict[str, Value] = dict(how_much)
        if given.images is not None and given.detector:
            flags["images"] = given.images
            if not {"criterion", "candidates", "preset"} & {*own, *how_much}:
                flags["criterion"] = "surgeon" if self._on("recover", True) and "rounds" not in own else "sensitivity"
        chosen, how = self._flags("prune", flags)
        if wish.how_much:  # the command line wins over the file
            chosen = {**{name: value for name, value in chosen.items() if name not in HOW_MUCH}, **wish.how_much}
        self._cut("prune", self.current, chosen, how, "pruned")

    def _recover(self, plan: Path) -> None:
        assert self.given.images is not None
        before = next(pair for pair in reversed(self.networks) if pair.made_by != "prune")
        flags: dict[str, Value] = {
            "plan": FileSource("plan", plan),
            "images": self.given.images,
            "recover": "lsq",
        }
        chosen, how = self._flags("recover", flags)
        self._cut("recover", before, chosen, how, "recovered")

    def _cut(self, stage: str, before: Pair, flags: dict[str, Value], how: dict[str, Value], place: str) -> None:
        output = self.folder / place
        stem = self.original.cfg.stem
        made = Pair(place, output / f"{stem}.cfg", output / f"{stem}.weights", stage)
        files = (made.cfg, made.weights, output / "plan.json", output / "report.json")
        self._add(stage, "prune", before.sources(), (flags, how), output, files)
        self.networks.append(made)

    def _distill(self, plan: Path) -> None:
        given = self.given
        flags: dict[str, Value] = {**RECIPE, "plan": FileSource("plan", plan)}
        if given.train is not None:
            flags.update(self._labels(), iterations=steps_for(TUNE_EPOCHS, given.train[1]))
        elif given.learn is not None:
            flags.update(self._named() if given.valid else {}, **self._valid())
            length = steps_for(UNLABELLED_EPOCHS, given.learn[1])
            flags.update(unlabelled=given.learn[0], iterations=length, lr=UNLABELLED_RATE)
        else:
            raise UsageError("[distill] learns from images: give some with --images DIR or --data F")
        reads = (*self.original.sources("teacher "), *self.current.sources("student "))
        self._train("distill", "distill", reads, flags, "distilled")

    def _finetune(self) -> None:
        assert self.given.train is not None
        flags = {**RECIPE, "iterations": steps_for(TUNE_EPOCHS, self.given.train[1]), **self._labels()}
        self._train("finetune", "train", self.current.sources(), flags, "finetuned")

    def _evaluate(self) -> None:
        """Adds one measurement per network, and that of the control."""
        given = self.given
        if given.valid is None:
            if given.held_out is None:
                raise UsageError("[evaluate] needs images: give some with --images DIR, --data F or --valid F")
            reads = self.original.sources("original ")
            for pair in self.networks[1:]:
                flags: dict[str, Value] = {"images": given.held_out}
                both = (*reads, *pair.sources())
                self._add(f"evaluate: {pair.name}", "distance", both, (flags, {}), own=True)
            return
        flags = {"data": given.valid, **self._named()}
        chosen, how = self._flags("evaluate", flags)
        self.measuring = {**chosen, **how}
        for pair in self.networks:
            self._add(f"evaluate: {pair.name}", "eval", pair.sources(), (chosen, how))
        control = (*self.original.sources(), FileSource("slim cfg", self.current.cfg))
        self._add("evaluate: control", "control", control, (chosen, how), own=True)

    def candidates(self) -> list[Pair]:
        """Returns the networks that are as slim as is wanted, in order: from the cut on."""
        return [pair for pair in self.networks if pair.made_by not in ("", "sparse")]

    def _result(self) -> Pair:
        """Adds the stage that puts the best of the slim networks where it is looked for."""
        stem = self.original.cfg.stem
        made = Pair("result", self.folder / f"{stem}.cfg", self.folder / f"{stem}.weights", "result")
        measured = any(stage.kind == "evaluate" for stage in self.stages)
        reads: tuple[Source, ...] = self.current.sources(f"{self.current.name} ")
        flags: dict[str, Value] = {}
        if measured:
            reads = tuple(source for pair in self.candidates() for source in pair.sources(f"{pair.name} "))
            flags = {**self._flags("evaluate", {})[0], "measured on": self.given.valid or self.given.held_out or ""}
        files: tuple[Path, ...] = (made.cfg, made.weights)
        if self.given.class_names is not None:
            reads += (self.given.class_names,)
            files += (made.cfg.with_suffix(".names"),)
        self._add("result", "result", reads, (flags, {}), None, files, own=True)
        return made

    def _export(self) -> None:
        target: dict[str, Value] = {} if self.wish.target is None else {"target": self.wish.target}
        flags, how = self._flags("export", target)
        reads: tuple[Source, ...] = self.result.sources()
        if self.given.class_names is not None:
            flags["names"] = FileSource("names", self.result.cfg.with_suffix(".names"))
        if self.wish.board:
            output = self.folder / "kit"
            self._add("export", "kit", reads, (flags, how), output, (output / ONNX_NAME,))
        else:
            output = self.result.cfg.with_suffix(".onnx")
            self._add("export", "export", reads, (flags, how), output, (output,))


def arguments(reads: tuple[Source, ...], flags: Mapping[str, Value], output: Path | None) -> list[str]:
    """Returns the words of a command line after the command."""
    line = [str(source.path) for source in reads]
    for name, value in flags.items():
        if value is True:
            line.append(f"--{name}")
        elif value is False:
            line.append(f"--no-{name}")
        else:
            for each in value if isinstance(value, tuple) else (value,):
                text = str(each.path if isinstance(each, FileSource) else each)
                # a value may begin with a dash
                line += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return line if output is None else [*line, "-o", str(output)]
