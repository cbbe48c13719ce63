"""`bench`: how fast a network runs, and what pruning gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from darkprune.api.pair import Network, Pair, on_disk
from darkprune.errors import GraphError
from darkprune.graph.graph import Graph, resized
from darkprune.progress import Progress, reporting
from darkprune.runners.base import FAST_FIRST, RUNNERS, LoadedNetwork, load_with_any
from darkprune.runners.timing import Latency, noise_for, speed_up, time_alternately
from darkprune.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """How networks are timed."""

    runner: str | None = setting(
        None, "program to run the networks in", choices=tuple(RUNNERS), default_text="the first that can"
    )
    batch: int = setting(1, "images per run")
    size: str | None = setting(None, "another input size than the cfg's", metavar="WxH")
    runs: int = setting(50, "timed runs")
    warmup: int = setting(5, "runs before")


@dataclass(frozen=True)
class Timing:
    """Times of one network.

    Attributes:
        cfg, weights: its files.
        graph: the network as it was run.
        latency: per run.
        layers_ms: milliseconds by layer index; None where the program does not measure it.
    """

    cfg: str
    weights: str
    graph: Graph
    latency: Latency
    layers_ms: Mapping[int, float] | None

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        layers = self.layers_ms
        return {
            "cfg": self.cfg,
            "weights": self.weights,
            "macs": self.graph.macs,
            **self.latency.to_json(),
            "layers_ms": None if layers is None else {str(index): round(ms, 4) for index, ms in layers.items()},
        }


@dataclass(frozen=True)
class Gain:
    """Savings of the network with fewer operations.

    Attributes:
        speed_up: median over the runs of the larger network's time divided by the smaller one's.
        speed_up_range: ends of its 95 % interval.
        operations_saved: 1 − operations of the smaller ÷ operations of the larger.
        time_saved: 1 − 1 ÷ speed-up.
        share: time saved ÷ operations saved; None where no operations are saved.
    """

    speed_up: float
    speed_up_range: tuple[float, float]
    operations_saved: float
    time_saved: float
    share: float | None

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class BenchResult:
    """Times of one network, or of two in turn.

    Attributes:
        runner: the program that ran them.
        networks: in the order in which they were given.
        gain: savings of the smaller of two.
        warnings: what is odd about the networks.
    """

    runner: str
    networks: tuple[Timing, ...]
    gain: Gain | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        gain = None if self.gain is None else self.gain.to_json()
        return {"runner": self.runner, "networks": [timing.to_json() for timing in self.networks], "gain": gain}


def bench(
    network: Network,
    settings: BenchSettings | None = None,
    *,
    against: Network | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Times a network on random images, or two networks in turn, so that a machine's drift meets both alike.

    Args:
        network: a detector.
        settings: how; by default 50 runs of one image.
        against: a second network.
        progress: gets events.

    Raises:
        GraphError: a network reads no image or has no detection head.
        RunnerError: no program at hand runs them.
    """
    settings = settings or BenchSettings()
    networks = [network, *([against] if against is not None else [])]
    graphs = [resized(one.graph, settings.size) for one in networks]
    batch, runs, warmup = max(1, settings.batch), max(1, settings.runs), max(0, settings.warmup)
    with ExitStack() as stack:
        stack.enter_context(reporting(progress))
        pairs = [stack.enter_context(on_disk(one)) for one in networks]
        runner, loaded = _load(graphs, pairs, settings.runner)
        seconds = time_alternately(loaded, runs, warmup, batch=batch)
        layers = [one.layer_times(noise_for(one.graph)) for one in loaded]
        odd = tuple(dict.fromkeys(message for pair in pairs for message in pair.warnings()))
    timings = tuple(
        Timing(
            cfg=str(pair.cfg),
            weights=str(pair.weights_file),
            graph=graph,
            latency=Latency.of(times, batch, graph.macs),
            layers_ms=by_layer,
        )
        for pair, graph, times, by_layer in zip(pairs, graphs, seconds, layers, strict=True)
    )
    return BenchResult(runner, timings, _gain(timings, seconds) if against is not None else None, odd)


def _load(graphs: Sequence[Graph], pairs: Sequence[Pair], runner: str | None) -> tuple[str, list[LoadedNetwork]]:
    """Loads all networks in the same program."""
    loaded = []
    for graph, pair in zip(graphs, pairs, strict=True):
        if not graph.net.input.is_map or not graph.heads:
            raise GraphError(
                f"{graph.cfg.source}: reads no image or has no detection head, so there is nothing to time"
            )
        runner, one = load_with_any(graph, pair.weights_file, runner, taps=False, order=FAST_FIRST)
        loaded.append(one)
    return str(runner), loaded


def _gain(timings: Sequence[Timing], seconds: Sequence[Sequence[float]]) -> Gain:
    """Compares two networks: which of them is the pruned one follows from the operations."""
    (large, slow), (small, fast) = sorted(zip(timings, seconds, strict=True), key=lambda entry: -entry[0].graph.macs)
    ratio, low, high = speed_up(slow, fast)
    time_saved, operations_saved = 1 - 1 / ratio, 1 - small.graph.macs / large.graph.macs
    return Gain(
        speed_up=round(ratio, 4),
        speed_up_range=(round(low, 4), round(high, 4)),
        operations_saved=round(operations_saved, 4),
        time_saved=round(time_saved, 4),
        share=time_saved / operations_saved if operations_saved > 0 else None,
    )
