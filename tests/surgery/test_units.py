"""Residual units: found, chosen, cut out of text and tensors, combined with channels, replayed and verified."""

from __future__ import annotations

import io
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import forward, load, random_weights

from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.groups import PruneGroup
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.apply import Cut, constants_of, write_slim
from darkprune.surgery.removed_units import kept_layers, reduced, regroup, without_units
from darkprune.surgery.replay import replay
from darkprune.surgery.units import Unit as U
from darkprune.surgery.units import check_units, choose_units, find_units, silencers
from tests.assets import CHECKPOINTS, ZOO, needs_assets

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=1\npad=1\nactivation={}\n\n"


def conv(filters: int = 8, activation: str = "leaky") -> str:
    return CONV.format(filters, activation)


def net(*sections: str, size: int = 16) -> str:
    return f"[net]\nwidth={size}\nheight={size}\nchannels=3\n\n" + "".join(sections)


SHORTCUT = "[shortcut]\nfrom=-3\nactivation=linear\n\n"
#: 0 conv, unit 1-3, 4 conv, unit 5-7, unit 8-10, 11 conv, 12 route, 13 conv
TEXT = net(
    conv(), conv(4), conv(), SHORTCUT, conv(), conv(6), conv(), SHORTCUT, conv(3), conv(), "[shortcut]\nfrom=7\n"
    "activation=linear\n\n", conv(5), "# a comment that stays\n[route]\nlayers = -1, 10 , -8  # of 3,x\n\n", conv(7)
)  # fmt: skip


def graph_of(text: str) -> Graph:
    return build_graph(parse_cfg(text, "net.cfg"))


def write(folder: Path, text: str, seed: int = 0) -> tuple[Path, Path]:
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(text)
    weights.write_bytes(random_weights(text, np.random.default_rng(seed)))
    return cfg, weights


def ranges(units: object) -> list[tuple[int, int]]:
    return [(unit.first, unit.last) for unit in units]


def test_finds_units() -> None:
    assert ranges(find_units(graph_of(TEXT))) == [(1, 3), (5, 7), (8, 10)]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (("from=-3\nactivation=linear", "from=-3\nactivation=leaky"), [(8, 10)]),
        (("from=7\nactivation=linear", "from=7\nactivation=linear\nweights_type=per_feature"), [(1, 3), (5, 7)]),
        (("from=7\n", "from=7,4\n"), [(1, 3), (5, 7)]),
        (("10 , -8", "9 , -8"), [(1, 3), (5, 7)]),  # an inner layer is read by the route
        (("10 , -8", "1 , -8"), [(5, 7), (8, 10)]),
    ],
)  # fmt: skip
def test_what_is_no_unit(change: tuple[str, str], left: list[tuple[int, int]]) -> None:
    assert change[0] in TEXT
    assert ranges(find_units(graph_of(TEXT.replace(*change)))) == left


def test_branches_that_no_convolution_silences_are_no_units() -> None:
    squeeze = (
        "[avgpool]\n\n[convolutional]\nfilters=8\nactivation=logistic\n\n[scale_channels]\nfrom=-3\n\n"
        "[shortcut]\nfrom=-5\nactivation=linear\n\n"
    )
    graph = graph_of(net(conv(), conv(), squeeze, conv()))
    (unit,) = find_units(graph)
    assert silencers(graph, unit) == {1}
    logistic = graph_of(net(conv(), conv(), conv(8, "logistic"), SHORTCUT, conv()))
    assert find_units(logistic) == ()


def test_a_branch_that_adds_what_goes_into_it_is_no_unit() -> None:
    """1-2 gives what layer 0 gave where 1 is silent; 1-3 gives twice that."""
    plus = "[shortcut]\nfrom=0\nactivation=linear\n\n"
    assert ranges(find_units(graph_of(net(conv(), conv(), plus, plus, conv())))) == [(1, 2)]


def test_a_shortcut_that_adds_its_input_to_itself_is_no_unit() -> None:
    assert find_units(graph_of(net(conv(), conv(), "[shortcut]\nfrom=-1\nactivation=linear\n\n", conv()))) == ()


def test_indices_and_text() -> None:
    graph = graph_of(TEXT)
    text = str(without_units(graph, [U(1, 3), U(8, 10)]))
    assert "layers = -1, 4 , 0 " not in text
    assert "layers = -1, 4 , -5  # of 3,x" in text  # 10 is 7, now 4; 4 of layer 12 is 1 of layer 6
    assert "# a comment that stays" in text
    began = time.process_time()
    blanks = " " * 20_000
    odd = TEXT.replace(" 10 ", f"{blanks}1 0{blanks}").replace("# of", f"#{blanks}of")
    text = str(without_units(graph_of(odd), [U(1, 3), U(8, 10)]))
    assert f"layers = -1,{blanks}4{blanks}, -5  #{blanks}of 3,x" in text
    assert time.process_time() - began < 4
    assert "[shortcut]\nfrom=-3" in text
    assert len(build_graph(parse_cfg(text))) == 8
    assert str(without_units(graph, [])) == TEXT


@needs_assets
@pytest.mark.parametrize(
    "path",
    sorted(ZOO.glob("*.cfg")) + sorted(CHECKPOINTS.glob("*/*.cfg")),
    ids=lambda path: path.stem,
)
def test_every_layer_of_the_zoo_reads_what_it_read(path: Path) -> None:
    graph = read_graph(path)
    apart: list[U] = []
    for unit in find_units(graph):
        if all(unit.last < other.first or other.last < unit.first for other in apart):
            apart.append(unit)
    for units in (apart, apart[::2], apart[1::2]):
        kept = kept_layers(graph, units)
        after = build_graph(without_units(graph, units))
        stands_for = {unit.last: unit.source for unit in units}

        def now(layer: int, kept: tuple[int, ...] = kept, stands_for: dict[int, int] = stands_for) -> int:
            while layer in stands_for:
                layer = stands_for[layer]
            return kept.index(layer) if layer >= 0 else layer

        assert len(after) == len(kept)
        for old, new in zip((graph[i] for i in kept), after, strict=True):
            assert (old.name, old.output, old.inputs) == (new.name, new.output, new.inputs)
            assert tuple(map(now, old.sources)) == new.sources
            assert tuple(map(now, old.references)) == new.references
            for a, b in zip(
                graph.cfg.sections[old.section].options, after.cfg.sections[new.section].options, strict=True
            ):
                assert a.key == b.key
                assert a.value == b.value or a.key in ("layers", "from", "share_index", "embedding_layer", "yolo_layer")
                if a.value != b.value and a.key != "layers":
                    assert a.value.startswith("-") == b.value.startswith("-")


def test_the_lowest_are_chosen(tmp_path: Path) -> None:
    cfg, path = write(tmp_path, TEXT)
    with NetworkWeights(read_graph(cfg), path) as weights:
        gamma = {last: float(np.abs(weights.read(weights.graph[last - 1], "scales")).mean()) for last in (3, 7, 10)}
        order = sorted(gamma, key=gamma.__getitem__)
        for number in (1, 2, 3):
            chosen = choose_units(weights, number)
            assert {unit.last for unit in chosen} == set(order[:number])
            assert [unit.score for unit in chosen] == pytest.approx([gamma[unit.last] for unit in chosen], abs=1e-6)
        assert choose_units(weights, ratio=0.5) == choose_units(weights, 2)
        assert choose_units(weights) == ()
        with pytest.raises(PlanError, match="has 3 residual units"):
            choose_units(weights, 4)


@pytest.mark.parametrize(
    ("branch", "scored"),
    [
        (conv(4) + conv() + "[dropout]\n\n", 2),  # the last layer of the branch has no γ
        (conv(4) + conv().replace("batch_normalize=1\n", ""), 1),  # nor the last convolution
        (conv().replace("batch_normalize=1\n", "") + "[dropout]\n\n[dropout]\n\n" + conv() + "[dropout]\n\n", 4),
    ],
)
def test_a_unit_is_scored_by_its_last_normalised_convolution(branch: str, scored: int, tmp_path: Path) -> None:
    length = branch.count("\n[") + 1
    cfg, path = write(tmp_path, net(conv(), branch, SHORTCUT.replace("-3", str(-1 - length)), conv()))
    with NetworkWeights(read_graph(cfg), path) as weights:
        (unit,) = choose_units(weights, 1)
        gamma = weights.read(weights.graph[scored], "scales")
    assert unit.score == pytest.approx(float(np.abs(gamma).mean()), abs=1e-6)


def test_groups_of_what_is_left() -> None:
    groups = [PruneGroup("a", 0, 1), PruneGroup("b", 2, 3), PruneGroup("c", 4, 9)]
    assert ranges(regroup(groups, (0, 1, 4, 5, 8, 9))) == [(0, 1), (2, 1), (2, 5)]
    assert ranges(regroup(groups, (0, 2, 3, 9))) == [(0, 0), (1, 2), (3, 3)]


def test_bad_units_in_a_plan() -> None:
    graph = graph_of(TEXT)
    with pytest.raises(PlanError, match="layers 1-4 are no residual unit"):
        check_units(graph, [U(1, 4)])
    nested = graph_of(net(conv(), conv(), conv(), SHORTCUT, conv(), "[shortcut]\nfrom=0\nactivation=linear\n", conv()))
    assert ranges(find_units(nested)) == [(1, 3), (1, 5)]
    with pytest.raises(PlanError, match="overlap"):
        check_units(nested, find_units(nested))


def test_of_nested_units_one_goes(tmp_path: Path) -> None:
    text = net(conv(), conv(), conv(), SHORTCUT, conv(), "[shortcut]\nfrom=0\nactivation=linear\n", conv())
    cfg, path = write(tmp_path, text)
    with NetworkWeights(read_graph(cfg), path) as weights:
        (chosen,) = choose_units(weights, 1)
        assert chosen in find_units(weights.graph) or (chosen.first, chosen.last) in [(1, 3), (1, 5)]
        assert len(choose_units(weights, ratio=1.0)) == 1
        with pytest.raises(PlanError, match="has 1 residual units"):
            choose_units(weights, 2)


def test_of_nested_units_one_goes_whatever_went_before(tmp_path: Path) -> None:
    """The unit that was chosen first is apart from both of the nested ones, which still overlap each other."""
    text = net(
        conv(), conv(), conv(), SHORTCUT, conv(), "[shortcut]\nfrom=0\nactivation=linear\n", conv(), conv(), SHORTCUT,
        conv()
    )  # fmt: skip
    cfg, path = write(tmp_path, text)
    scores = {(6, 8): 0.1, (1, 5): 0.2, (1, 3): 0.3}
    with NetworkWeights(read_graph(cfg), path) as weights:
        assert sorted(ranges(find_units(weights.graph))) == sorted(scores)
        for order in ([0.1, 0.2, 0.3], [0.1, 0.3, 0.2]):
            given_ = dict(zip(scores, order, strict=True))
            chosen = choose_units(
                weights,
                ratio=1.0,
                score=lambda _, units, by=given_: tuple(U(u.first, u.last, by[u.first, u.last]) for u in units),
            )
            nested = min([(1, 5), (1, 3)], key=given_.__getitem__)
            assert ranges(chosen) == [nested, (6, 8)]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["conv", "unit", "dropped", "deep", "squeezed"]), min_size=1, max_size=5),
    st.integers(0, 2**31),
    st.data(),
)
def test_a_network_without_silent_units_computes_the_same(blocks: list[str], seed: int, data: st.DataObject) -> None:
    drop = "[dropout]\nprobability=.2\n\n"
    parts = {
        "conv": conv(8, "mish"),
        "unit": conv(5) + conv(8, "linear") + SHORTCUT,
        "dropped": conv(4, "relu") + conv(8, "swish") + drop + SHORTCUT.replace("-3", "-4"),
        "deep": conv(4) + "[maxpool]\nsize=3\nstride=1\n\n" + conv(8) + SHORTCUT.replace("-3", "-4"),
        "squeezed": conv(8)
        + "[avgpool]\n\n[convolutional]\nfilters=8\nactivation=logistic\n\n[scale_channels]\nfrom=-3\n\n"
        + SHORTCUT.replace("-3", "-5"),
    }
    text = net(conv(), *(parts[block] for block in blocks), "[route]\nlayers=-1,0\n\n", conv(4, "linear"), size=9)
    random = np.random.default_rng(seed)
    original = load(text, random_weights(text, random))
    graph = graph_of(text)
    units = data.draw(st.sets(st.sampled_from(find_units(graph)))) if find_units(graph) else set()
    raw = random_weights(text, np.random.default_rng(seed))
    for unit in units:
        for index in silencers(graph, unit) or ():
            for name in ("weights", "biases", "scales"):
                original.layers[index].arrays[name][:] = 0
    image = random.random((3, 9, 9), np.float32)
    expected = forward(original, image)
    text_after, file = _reduced_bytes(text, raw, sorted(units, key=lambda unit: unit.first))
    found = forward(load(text_after, file), image)
    for old, got in zip(kept_layers(graph, list(units)), found, strict=True):
        np.testing.assert_array_equal(expected[old], got)


def _reduced_bytes(text: str, raw: bytes, units: list[U]) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.weights"
        path.write_bytes(raw)
        with NetworkWeights(graph_of(text), path) as weights:
            view = reduced(weights, units)
            channels = map_channels(view.graph)
            keep = np.ones(channels.count, bool)
            everything = Cut(channels, keep, ~keep, "fold", "mean")
            file = io.BytesIO()
            write_slim(view, everything, constants_of(view, everything), file)
            return str(everything.slim.cfg), file.getvalue()


def test_combination_replays_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    cfg, weights = write(tmp_path, TEXT)
    pair = [str(cfg), str(weights)]
    keep = ["--min-channels", "2", "--exclude", "11", "--groups", "0-7,8-13", "--merge", "any"]
    first, second = tmp_path / "a", tmp_path / "b"
    assert main(["prune", *pair, "--units", "2", "--ratio", "0.5", *keep, "-o", str(first), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in report["stages"]] == ["units", "channels"]
    assert report["before"]["params"] > report["stages"][0]["after"]["params"] > report["after"]["params"]
    plan = json.loads((first / "plan.json").read_text())
    assert len(plan["units"]) == 2
    slim = read_graph(first / "net.cfg")
    assert len(slim) == 8
    assert slim[5].output.c == 5  # layer 11 of the original, excluded by its own number
    assert main(["prune", *pair, "--plan", str(first / "plan.json"), "-o", str(second)]) == 0
    for name in ("net.cfg", "net.weights"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    capsys.readouterr()
    assert main(["verify", *pair, str(first / "net.cfg"), str(first / "net.weights"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["numeric"]["worst_layer"]["relative"] < 1e-5
    # the text is checked too: an index that points elsewhere is found
    assert "layers = -1, 4" in (first / "net.cfg").read_text()
    broken = (first / "net.cfg").read_text().replace("layers = -1, 4", "layers = -1, 1")
    (first / "net.cfg").write_text(broken)
    assert main(["verify", *pair, str(first / "net.cfg"), str(first / "net.weights"), "--static"]) == 1
    assert "differs at line" in capsys.readouterr().out


def test_numbers_would_show_a_wrong_unit(tmp_path: Path) -> None:
    """The stand-in is the whole original: tensors that moved to the wrong layer differ from it."""
    pytest.importorskip("cv2")
    from darkprune.runners.verify import check_numbers

    cfg, path = write(tmp_path, net(conv(), *[conv(4) + conv() + SHORTCUT] * 3, conv(5)))
    out = tmp_path / "slim.weights"
    with NetworkWeights(read_graph(cfg), path) as weights:
        settings_ = Selection(units=1)
        ranking = rank(weights, settings_)
        decision = decide(ranking, settings_)
        assert len(ranking.units) == 1
        with out.open("wb") as file:
            decision.write_weights(file)
        image = np.random.default_rng(1).random((3, 16, 16), np.float32)
        check = check_numbers(decision, out, [image], "opencv")
        assert check.ok
        assert check.worst_cut is not None
        assert check.worst_cut.relative < 1e-6
        other = next(unit for unit in find_units(weights.graph) if unit not in ranking.units)
        # a unit of the same length elsewhere: same layers, other tensors
        swapped = replay(weights, replace(decision.plan, units=(other,)), ("", ""))
        assert not check_numbers(swapped, out, [image], "opencv").ok


@needs_assets
@pytest.mark.parametrize("name", ["yolo-fastest-1.1-xl_coco", "MobileNetV2-YOLO-Fastest-v2-SE_voc"])
def test_real_checkpoints(name: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    pair = [str(CHECKPOINTS / name / f"{name}.{kind}") for kind in ("cfg", "weights")]
    out = tmp_path / "out"
    assert main(["prune", *pair, "--units", "3", "--ratio", "0.2", "--force", "-o", str(out)]) == 0
    assert main(["verify", *pair, str(out / f"{name}.cfg"), str(out / f"{name}.weights")]) == 0


def test_base_is_the_original_where_no_unit_goes(tmp_path: Path) -> None:
    cfg, path = write(tmp_path, TEXT)
    with NetworkWeights(read_graph(cfg), path) as weights:
        settings_ = Selection(ratio=0.2, min_channels=1)
        assert decide(rank(weights, settings_), settings_).base is weights
