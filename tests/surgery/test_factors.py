"""Convolutions as products: text, indices and tensors, against the referee; plans that hold factors."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference import ReferenceNetwork, forward, load

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.lowrank.factorise import plan_factors
from darkprune.surgery.factors.network import WithFactors, factorisable, factorised_cfg, parts_of, write_multiplied
from darkprune.surgery.factors.projection import Factors, Projection
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replay import replay
from darkprune.surgery.stand_ins import write_held, write_masked
from darkprune.surgery.surgery import Surgery
from tests.assets import CHECKPOINTS, ZOO, needs_assets

from .cutting import opened
from .networks import Draw, Network, cfg, networks, tensors_of

TOLERANCE = 2e-5  #: the inverse of a random basis is not exact in float32
CONV = "convolutional batch_normalize=1 filters={} size=3 stride={} pad=1 activation=leaky"
#: layers that every kind of index points at
TEXT = cfg(
    CONV.format(6, 1), CONV.format(8, 2), "convolutional filters=8 size=1 activation=mish", "shortcut from=-2",
    CONV.format(4, 1), "route layers=-1,3", "convolutional filters=5 size=5 padding=2 stride_x=2 stride_y=1 dilation=1",
    "route layers=3", "convolutional filters=4 size=3 pad=1 dilation=2", "route layers=-1,4",
)  # fmt: skip


def graph_of(text: str) -> Graph:
    return build_graph(parse_cfg(text, "net.cfg"))


def projection(random: np.random.Generator, width: int, rank: int) -> Projection:
    """A random projection; well conditioned."""
    base = np.linalg.qr(random.normal(size=(width, width)))[0] * random.uniform(0.5, 2, width)
    return Projection(base[:, :rank].astype(np.float32), np.linalg.inv(base)[:rank].astype(np.float32))


def candidates(graph: Graph) -> list[int]:
    return [layer.index for layer in graph if factorisable(graph, layer)]


@st.composite
def factors_for(draw: Draw, graph: Graph, whole: bool) -> dict[int, Factors]:
    """Factors of some layers, of full rank or of any."""
    chosen = sorted(draw(st.sets(st.sampled_from(candidates(graph)), min_size=1)))
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    found = {}
    for index in chosen:
        layer, how = graph[index], draw(st.sampled_from(["both", "inputs", "outputs", "outputs"]))

        def part(width: int) -> Projection:
            return projection(random, width, width if whole else draw(st.integers(1, width)))

        found[index] = Factors(
            part(layer.inputs[0].c) if how != "outputs" else None, part(layer.output.c) if how != "inputs" else None
        )
    return found


def surgery_of(weights: NetworkWeights, factors: Mapping[int, Factors], means: Mapping[int, Any]) -> Surgery:
    plan, cut = plan_factors(weights, factors, means, {})
    return Surgery(original=weights, plan=plan, cut=cut)


def bytes_of(write: Any, *arguments: Any) -> bytes:
    file = io.BytesIO()
    write(*arguments, file)
    return file.getvalue()


def projected(network: ReferenceNetwork, factors: Mapping[int, Factors], means: Mapping[int, Any]) -> ReferenceNetwork:
    """The original with projected filters and the mean of what they lose: worked out without the surgery."""
    for index, found in factors.items():
        arrays = network.layers[index].arrays
        filters = arrays["weights"].astype(np.float64)
        if found.inputs is not None:
            filters = np.einsum("ncij,ca,ad->ndij", filters, found.inputs.basis, found.inputs.coordinates)
        if found.outputs is not None:
            kept = found.outputs.basis.astype(np.float64) @ found.outputs.coordinates
            filters = np.einsum("nm,mcij->ncij", kept, filters)
            lost = means[index] - kept @ means[index]
            name, sign = ("rolling_mean", -1) if "rolling_mean" in arrays else ("biases", 1)
            arrays[name] = arrays[name] + sign * lost
        arrays["weights"] = filters
    return network


def compare(expected: list[np.ndarray], found: list[np.ndarray], numbers: Mapping[int, int]) -> None:
    for new, old in numbers.items():
        want, got = expected[old], found[new]
        assert want.shape == got.shape, f"layer {old}"
        if want.size:
            assert np.abs(want - got).max() <= TOLERANCE * max(1.0, np.abs(want).max()), f"layer {old}"


EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def check_unchanged(network: Network, factors: Mapping[int, Factors]) -> None:
    """Compares a network with its factors of full rank, and with what comes of multiplying them again."""
    graph = graph_of(network.text)
    with opened(network.text, network.weights) as weights:
        means = {index: np.zeros(graph[index].output.c) for index in factors}
        surgery = surgery_of(weights, factors, means)
        assert surgery.cut.keep.all()
        text, raw = str(surgery.graph.cfg), bytes_of(surgery.write_weights)
        again = bytes_of(write_multiplied, graph, factors, surgery.factorised)
    numbers = {new: part.layer for new, part in enumerate(parts_of(graph, factors)) if part.last}
    expected = forward(load(network.text, network.weights), network.image)
    compare(expected, forward(load(text, raw), network.image), numbers)
    compare(expected, forward(load(network.text, again), network.image), {i: i for i in range(len(graph))})


@pytest.mark.slow
@EXAMPLES
@given(networks(), st.data())
def test_of_full_rank_nothing_changes(network: Network, data: st.DataObject) -> None:
    graph = graph_of(network.text)
    assume(candidates(graph))
    check_unchanged(network, data.draw(factors_for(graph, whole=True)))


def check_projected(network: Network, factors: Mapping[int, Factors]) -> None:
    """Compares a network of lower ranks and its stand-ins with the original whose filters are projected."""
    graph = graph_of(network.text)
    random = np.random.default_rng(network.seed)
    means = {index: random.normal(size=graph[index].output.c) for index in factors}
    with opened(network.text, network.weights) as weights:
        surgery = surgery_of(weights, factors, means)
        text, raw = str(surgery.graph.cfg), bytes_of(surgery.write_weights)
        stand_ins = []
        for write in (write_masked, write_held):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "base.weights"
                path.write_bytes(bytes_of(write, surgery))
                with NetworkWeights(surgery.factorised.graph, path) as stand_in:
                    stand_ins.append(bytes_of(write_multiplied, graph, factors, stand_in))
    numbers = {new: part.layer for new, part in enumerate(parts_of(graph, factors)) if part.last}
    found = forward(load(text, raw), network.image)
    compare(forward(projected(load(network.text, network.weights), factors, means), network.image), found, numbers)
    for stand_in in stand_ins:
        compare(forward(load(network.text, stand_in), network.image), found, numbers)


@pytest.mark.slow
@EXAMPLES
@given(networks(), st.data())
def test_of_lower_rank_filters_are_projected(network: Network, data: st.DataObject) -> None:
    graph = graph_of(network.text)
    assume(candidates(graph))
    check_projected(network, data.draw(factors_for(graph, whole=False)))


@pytest.mark.parametrize("sides", ["inputs", "outputs", "both"])
def test_one_network_at_full_and_at_lower_rank(sides: str) -> None:
    random = np.random.default_rng(0)
    graph = graph_of(TEXT)
    network = Network(TEXT, 0, False)
    for check, less in ((check_unchanged, 0), (check_projected, 1)):
        factors = {}
        for index in candidates(graph):
            layer = graph[index]
            ends = [projection(random, width, width - less) for width in (layer.inputs[0].c, layer.output.c)]
            factors[index] = Factors(ends[0] if sides != "outputs" else None, ends[1] if sides != "inputs" else None)
        check(network, factors)


def test_text_stays_as_it_was_written() -> None:
    graph = graph_of("# head\n" + TEXT.replace("[route]\nlayers=-1,3", "[route]\nlayers = -1 , 3 # joined"))
    random = np.random.default_rng(0)
    factors = {
        1: Factors(None, projection(random, 8, 3)),
        6: Factors(projection(random, 12, 2), projection(random, 5, 5)),
        8: Factors(projection(random, 8, 4)),
    }
    found = factorised_cfg(graph, factors)
    assert str(found).startswith("# head\n")
    after = build_graph(found)
    assert [layer.name for layer in after] == [
        *["convolutional"] * 4, "shortcut", "convolutional", "route", *["convolutional"] * 3, "route",
        *["convolutional"] * 2, "route",
    ]  # fmt: skip
    assert "layers = -1 , 4 # joined" in str(found)
    assert "layers=-1,5" in str(found)
    assert after[4].sources == (3, 2)
    sections = {layer.index: {o.key: o.value for o in found.sections[layer.section].options} for layer in after}
    assert sections[1] == {"filters": "8", "size": "3", "stride": "2", "pad": "1", "activation": "linear"}
    assert sections[2] == {
        "batch_normalize": "1", "filters": "8", "size": "1", "stride": "1", "pad": "1", "activation": "leaky",
    }  # fmt: skip
    assert sections[7] == {"filters": "12", "size": "1", "stride": "1", "activation": "linear"}
    assert sections[8] == {
        "filters": "5", "size": "5", "stride_x": "2", "stride_y": "1", "padding": "2", "dilation": "1",
        "activation": "linear",
    }  # fmt: skip
    assert sections[9] == {
        "filters": "5", "size": "1", "padding": "0", "stride_x": "1", "stride_y": "1", "dilation": "1",
    }  # fmt: skip
    assert sections[12] == {"filters": "4", "size": "3", "pad": "1", "dilation": "2"}
    assert str(factorised_cfg(graph, {})) == str(graph.cfg)


def test_line_ends_and_training_keys_are_kept() -> None:
    text = TEXT.replace("filters=4\nsize=3\nstride=1", "filters=4\nsize=3\ndont_update=1\nstride=1")
    graph = graph_of(text.replace("\n", "\r\n"))
    found = str(factorised_cfg(graph, {4: Factors(None, projection(np.random.default_rng(0), 4, 2))}))
    assert found.count("\n") == found.count("\r\n")
    assert found.count("dont_update=1") == 2


@pytest.mark.parametrize(
    "section",
    [
        "convolutional filters=8 groups=2 size=3 pad=1",
        "convolutional filters=8 groups=8 size=3 pad=1",
        "convolutional filters=8 size=3 pad=1 xnor=1",
        "convolutional filters=8 size=3 pad=1 binary=1",
        "convolutional filters=8 size=3 pad=1 flipped=1",
        "convolutional filters=8 size=3 pad=1 stride=2 antialiasing=1",
        "convolutional filters=8 size=3 pad=1 dontload=1",
        "convolutional filters=8 size=3 pad=1 batch_normalize=1 dontloadscales=1",
        "convolutional filters=8 size=3 pad=1 sway=1",
        "convolutional filters=8 size=3 pad=1 coordconv=1",
        "connected output=4",
        "maxpool size=2",
    ],
)
def test_what_cannot_be_factorised(section: str) -> None:
    graph = graph_of(cfg("convolutional filters=8 size=3 pad=1", section, "convolutional filters=4 size=1"))
    assert candidates(graph) == [2]
    with pytest.raises(PlanError, match="layer 1 is no convolution that can be written as a product"):
        factorised_cfg(graph, {1: Factors(None, projection(np.random.default_rng(0), 8, 2))})


def test_a_convolution_of_too_many_channels_is_left_alone() -> None:
    """Either side counts: 8192 channels are the most that a projection has."""
    one = "convolutional size=1 activation=linear filters={}"
    graph = graph_of(cfg(one.format(4), one.format(8193), one.format(4), one.format(8192)))
    assert candidates(graph) == [3]


def test_shared_weights_stay_shared() -> None:
    conv = "convolutional filters=8 size=3 pad=1"
    graph = graph_of(cfg(conv, conv, conv, f"{conv} share_index=1", conv))
    assert candidates(graph) == [2, 4]
    found = build_graph(factorised_cfg(graph, {2: Factors(None, projection(np.random.default_rng(0), 8, 2))}))
    assert found[4].references == (1,)


@needs_assets
@pytest.mark.parametrize(
    "path", sorted(ZOO.glob("*.cfg")) + sorted(CHECKPOINTS.glob("*/*.cfg")), ids=lambda path: path.stem
)
def test_every_layer_of_the_zoo_reads_what_it_read(path: Path) -> None:
    graph = read_graph(path)
    names = candidates(graph)
    for chosen in (names, names[::2], names[1::3]):
        factors = {}
        for place, index in enumerate(chosen):
            identity = [
                np.eye(width, 1, dtype=np.float32) for width in (graph[index].inputs[0].c, graph[index].output.c)
            ]
            parts = [Projection(part, part.T) if place % 3 != number else None for number, part in enumerate(identity)]
            factors[index] = Factors(*parts)
        after = build_graph(factorised_cfg(graph, factors))
        parts_ = parts_of(graph, factors)
        new = {part.layer: number for number, part in enumerate(parts_) if part.last} | {-1: -1}
        assert len(after) == len(parts_)
        for number, part in enumerate(parts_):
            before, layer = graph[part.layer], after[number]
            assert layer.output == before.output or part.role == "reduce"
            if part.role == "whole":
                assert tuple(new[source] for source in before.sources) == layer.sources
                assert tuple(new[source] for source in before.references) == layer.references
                assert layer.blobs == before.blobs


# ---- plans


def plan_of(ranks: Mapping[int, int], folder: Path) -> tuple[dict[str, Any], Path]:
    """A plan with factors as a file holds it."""
    random = np.random.default_rng(0)
    with opened(TEXT, tensors_of(TEXT, {})) as weights:
        graph = weights.graph
        factors = {
            index: Factors(None, projection(random, graph[index].output.c, rank)) for index, rank in ranks.items()
        }
        plan, _ = plan_factors(
            weights, factors, {i: np.ones(graph[i].output.c) for i in factors}, {"method": "by hand"}
        )
        path = folder / "plan.json"
        path.write_text(plan.with_hashes("c", "w").dumps())
    return json.loads(path.read_text()), path


def test_a_plan_is_replayed_byte_for_byte(tmp_path: Path) -> None:
    data, path = plan_of({1: 3, 4: 2}, tmp_path)
    assert data["layers"]["1"]["keep"] == "0-2"
    assert data["factors"]["4"]["outputs"]["rank"] == 2
    assert all(len(line) <= 120 for line in data["factors"]["1"]["outputs"]["basis"])
    plan = read_plan(path)
    assert json.loads(plan.dumps()) == data
    with opened(TEXT, tensors_of(TEXT, {})) as weights:
        surgery = replay(weights, plan, ("c", "w"))
        random = np.random.default_rng(0)
        factors = {1: Factors(None, projection(random, 8, 3)), 4: Factors(None, projection(random, 4, 2))}
        made = surgery_of(weights, factors, {1: np.ones(8), 4: np.ones(4)})
        assert bytes_of(surgery.write_weights) == bytes_of(made.write_weights)
        assert str(surgery.graph.cfg) == str(made.graph.cfg)
        assert isinstance(surgery.base, WithFactors)


def test_a_person_may_lower_a_rank(tmp_path: Path) -> None:
    data, path = plan_of({1: 3}, tmp_path)
    data["layers"]["1"].update(keep="0-1", kept=2)
    path.write_text(json.dumps(data))
    with opened(TEXT, tensors_of(TEXT, {})) as weights:
        assert replay(weights, read_plan(path), ("c", "w")).graph[1].output.c == 2


def _damaged(part: str, value: object) -> Any:
    def change(data: dict[str, Any]) -> None:
        data["factors"]["1"]["outputs"][part] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_damaged("rank", 9), "onto 9"),
        (_damaged("rank", 0), "onto 0"),
        (_damaged("rank", 2), "bytes are not a matrix"),
        (_damaged("channels", 1 << 30), "a projection of"),
        (_damaged("basis", ["AAAA"]), "3 bytes are not a matrix of 8x3"),
        (_damaged("basis", ["?!"]), "is not a plan"),
        (_damaged("basis", [7]), "is not a plan"),
        (_damaged("basis", ["AACAfwAAgH8AAIB/" * 8]), "values that are not finite"),
        (_damaged("coordinates", ["AAAA" * 32]), "do not belong together"),
        (lambda data: data["factors"].update({"1": {}}), "factors of a layer without a projection"),
        (lambda data: data.update(factors=[1]), "is not a plan"),
        (lambda data: data["factors"].update({"3": data["factors"]["1"]}), "layer 3 is no convolution"),
        (lambda data: data["factors"].update({"99": data["factors"]["1"]}), "layer 99 is no convolution"),
        (lambda data: data["factors"].update({"4": data["factors"]["1"]}), "a projection of 8 channels instead of 4"),
        (lambda data: data.update(units=[{"layers": [1, 3], "score": None}]), "holds units and factors"),
    ],
)  # fmt: skip
def test_junk_in_a_plan_is_refused_in_one_line(change: Any, message: str, tmp_path: Path) -> None:
    data, path = plan_of({1: 3}, tmp_path)
    change(data)
    path.write_text(json.dumps(data))
    with opened(TEXT, tensors_of(TEXT, {})) as weights, pytest.raises(PlanError, match=message) as caught:
        replay(weights, read_plan(path), ("c", "w"))
    assert "\n" not in str(caught.value)
