"""Plans: JSON both ways, replay, and what a changed plan may not say."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.runs.digests import digest_of_file
from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import parse_plan, read_plan
from darkprune.surgery.replay import replay

from .cutting import make, opened, slim_of
from .networks import Network, cfg, networks, tensors_of
from .test_cut import all_settings

CONV = "convolutional size=3 pad=1 batch_normalize=1 activation=leaky filters={}"
TEXT = cfg(
    CONV.format(12), CONV.format(12), "shortcut from=-2", "route layers=-1 groups=2 group_id=0", CONV.format(6),
    "route layers=2,4", CONV.format(2),
)  # fmt: skip
HASHES = ("c" * 64, "w" * 64)


def plan_json(**chosen: Any) -> dict[str, Any]:
    with opened(TEXT, tensors_of(TEXT, {})) as pair:
        decision = make(pair, **{"ratio": 0.5, "min_channels": 1, **chosen})
    return decision.plan.with_hashes(*HASHES).to_json()


def written(data: object, folder: Path) -> Path:
    path = folder / "plan.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def replayed(data: dict[str, Any], folder: Path, hashes: tuple[str, str] = HASHES, text: str = TEXT) -> Any:
    plan = read_plan(written(data, folder))
    with opened(text, tensors_of(text, {})) as pair:
        return replay(pair, plan, hashes)


# ---- both ways


def test_a_person_can_read_it() -> None:
    data = plan_json()
    assert data["cfg"] == {"name": "net.cfg", "sha256": "c" * 64}
    assert data["settings"]["ratio"] == 0.5
    assert set(data["groups"][0]) >= {"name", "layers", "ratio", "threshold", "channels", "removed"}
    entry = data["layers"]["0"]
    assert entry["channels"] == 12
    assert entry["kept"] == sum(
        int(last or first) - int(first) + 1
        for first, _, last in (part.partition("-") for part in entry["keep"].split(","))
    )
    assert data["layers"]["1"]["keep"] == entry["keep"]  # coupled


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), all_settings())
def test_replay_gives_the_same_bytes(network: Network, chosen: Selection) -> None:
    with opened(network.text, network.weights) as pair:
        decision = decide(rank(pair, chosen), chosen)
        plan = decision.plan.with_hashes(*HASHES)
        path = pair.file.path.parent / "plan.json"
        path.write_text(plan.dumps(), encoding="utf-8")
        again = read_plan(path)
        assert again == plan
        assert again.dumps() == plan.dumps()
        replayed_surgery = replay(pair, again, HASHES)
        assert replayed_surgery.plan == plan
        cut = replayed_surgery.cut
        assert (cut.keep == decision.cut.keep).all()
        assert (cut.carriers == decision.cut.carriers).all()
        assert slim_of(pair, cut) == slim_of(pair, decision.cut)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(["fold", "carrier", "none"]))
def test_keeping_everything_changes_nothing(network: Network, compensate: str) -> None:
    with opened(network.text, network.weights) as pair:
        decision = make(pair, ratio=0.0, compensate=compensate)
        assert decision.plan.layers == {}
        slim = slim_of(pair, decision.cut)
    assert slim.text == network.text
    assert slim.weights == network.weights


# ---- changed by hand


def test_another_choice_of_channels(tmp_path: Path) -> None:
    data = plan_json()
    for layer in ("0", "1"):
        data["layers"][layer] = {"channels": 12, "keep": "0-2, 6-7, 11"}
    surgery = replayed(data, tmp_path)
    cut = surgery.cut
    kept = cut.keep[cut.channels.of_layer[0]]
    assert kept.nonzero()[0].tolist() == [0, 1, 2, 6, 7, 11]
    plan = surgery.plan  # the groups say what goes now
    assert sum(group.removed for group in plan.groups) == 6 + 6 + (6 - data["layers"]["4"]["kept"])


def test_a_layer_left_out_keeps_everything(tmp_path: Path) -> None:
    data = plan_json()
    del data["layers"]["4"]
    cut = replayed(data, tmp_path).cut
    assert cut.keep[cut.channels.of_layer[4]].all()
    assert not cut.keep[cut.channels.of_layer[0]].all()


@pytest.mark.parametrize(
    ("layer", "entry", "message"),
    [
        ("6", {"channels": 2, "keep": "0"}, "layer 6: channel 1 cannot go: an output of the network"),
        ("0", {"channels": 12, "keep": "0-5"}, "layers 0 and 1 are coupled, but differ at channel"),
        ("0", {"channels": 11, "keep": "0-5"}, "layer 0 has 12 channels, not 11; the plan is for another cfg"),
        ("2", {"channels": 12, "keep": "0-5"}, "layer 2 makes no channels of its own"),
        ("99", {"channels": 12, "keep": "0-5"}, "layer 99 makes no channels of its own"),
        ("-1", {"channels": 12, "keep": "0-5"}, "layer -1 makes no channels of its own"),
        ("4", {"channels": 6, "keep": ""}, "layer 4 would keep no channel"),
        ("4", {"channels": 6, "keep": "0", "carriers": "1"}, "layer 4: carriers must be among the channels kept"),
    ],
)
def test_changes_that_cannot_be(layer: str, entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = plan_json()
    data["layers"][layer] = entry
    with pytest.raises(PlanError, match=message):
        replayed(data, tmp_path)


def test_blocks_left_unequal(tmp_path: Path) -> None:
    data = plan_json()
    for layer in ("0", "1"):
        data["layers"][layer] = {"channels": 12, "keep": "0-3,6"}
    with pytest.raises(PlanError, match=r"layer 3 reads blocks that would keep \[1, 4\] channels"):
        replayed(data, tmp_path)


@pytest.mark.parametrize(("hashes", "which"), [(("x", "w" * 64), "cfg"), (("c" * 64, "x"), "weights")])
def test_plan_for_other_files(hashes: tuple[str, str], which: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=rf"net\.{which}: the plan was made for another {which} file \(net\.{which}"):
        replayed(plan_json(), tmp_path, hashes)


def test_plan_for_another_network(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="layer 0 has 5 channels, not 12"):
        replayed(plan_json(), tmp_path, text=cfg(CONV.format(5), CONV.format(2)))


# ---- files that are no plans


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\x00\x01", "is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"format":' + "[" * 100 + "]" * 100 + "}", "nested deeper than"),
        ("[]", "is not a plan"),
        ("null", "is not a plan"),
        ("{}", "is not a plan"),
        ('{"format": "darkprune-plan/99"}', "format is 'darkprune-plan/99'"),
    ],
)
def test_no_plan(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=message):
        read_plan(written(content, tmp_path))


def test_binary_missing_and_folder(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(bytes(range(256)))
    with pytest.raises(PlanError, match="is not JSON"):
        read_plan(tmp_path / "junk")
    with pytest.raises(PlanError, match="no such file"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(PlanError, match="is a directory; expected a plan"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    "keep", ["0-12", "5-3", "0,0", "3,1", "a", "1-", "-1", "0--1", "9" * 12, 3.5, None, [1], {}, True]
)
def test_ranges_that_are_none(keep: object, tmp_path: Path) -> None:
    data = plan_json()
    data["layers"]["4"]["keep"] = keep
    with pytest.raises(PlanError):
        replayed(data, tmp_path)


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [*([path] if path else []), *(place for key, value in items for place in _places(value, (*path, key)))]


JUNK = [None, True, -1, 1e400, float("nan"), 10**30, "", "x", [], [1], {}, {"a": 1}, "9" * 5000]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_of_a_plan_may_be_junk(data: st.DataObject) -> None:
    """Whatever stands where, the answer is a plan that works or one line."""
    plan = plan_json_with_everything()
    place = data.draw(st.sampled_from(_places(plan)))
    holder: Any = plan
    for key in place[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[place[-1]] = data.draw(st.sampled_from(JUNK))
    else:
        del holder[place[-1]]
    message = ""
    with opened(TEXT, tensors_of(TEXT, {})) as pair:
        try:
            read = read_plan(written(plan, pair.file.path.parent))
            surgery = replay(pair, read, HASHES)
            slim_of(pair, surgery.cut)
            json.dumps(surgery.plan.to_json(), allow_nan=False)
        except PlanError as error:
            message = str(error)
    assert "\n" not in message
    assert len(message) < 500


def plan_json_with_everything() -> dict[str, Any]:
    data = plan_json(compensate="carrier")
    data["layers"]["4"]["constants"] = [0.1] * 6
    return data


def test_constants_must_fit(tmp_path: Path) -> None:
    for constants in ([0.1] * 5, [[0.1] * 6], ["a"] * 6, [float("inf")] * 6):
        data = plan_json_with_everything()
        data["layers"]["4"]["constants"] = constants
        with pytest.raises(PlanError):
            replayed(data, tmp_path)


def test_constants_are_of_layers_that_there_are() -> None:
    with opened(TEXT, tensors_of(TEXT, {})) as pair:
        plan, channels = make(pair, ratio=0.5, min_channels=1).plan, map_channels(pair.graph)
    for layer in (-1, len(channels.graph)):
        with pytest.raises(PlanError, match=f"constants of layer {layer} do not fit the network"):
            replace(plan, measured={layer: np.ones(2)}).classes(channels)


def test_measured_constants_are_rounded_to_seven_digits_behind_the_point() -> None:
    with opened(TEXT, tensors_of(TEXT, {})) as pair:
        plan = make(pair, ratio=0.5, min_channels=1).plan
    constants = np.array([1 / 3, -2 / 3, 1e-8, 4, 5, 6])
    data = replace(plan, measured={4: constants, 2: np.arange(12) / 3}).to_json()
    assert data["layers"]["4"]["constants"] == [0.3333333, -0.6666667, 0, 4, 5, 6]
    assert "constants" not in data["layers"]["0"]
    assert data["constants"] == {"2": [round(number / 3, 7) for number in range(12)]}  # a layer that passes channels on


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_of_file(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_plan_is_for_files_on_disk(tmp_path: Path) -> None:
    """The whole way with true hashes, through a file."""
    (tmp_path / "net.cfg").write_text(TEXT)
    (tmp_path / "net.weights").write_bytes(tensors_of(TEXT, {}))
    hashes = (digest_of_file(tmp_path / "net.cfg"), digest_of_file(tmp_path / "net.weights"))
    with NetworkWeights(build_graph(parse_cfg(TEXT, "net.cfg")), tmp_path / "net.weights") as pair:
        plan: Plan = make(pair, ratio=0.5).plan.with_hashes(*hashes)
        (tmp_path / "plan.json").write_text(plan.dumps())
        replay(pair, read_plan(tmp_path / "plan.json"), hashes)
        with pytest.raises(PlanError, match="take that file, or make a new plan"):
            replay(pair, read_plan(tmp_path / "plan.json"), hashes[::-1])


@pytest.mark.parametrize("change", [{"layers": [10**400, 2]}, {"layers": [0, 2**31]}, {"removed": -(10**30)}])
def test_groups_of_numbers_that_no_network_has(change: dict[str, Any]) -> None:
    group = {"name": "g1", "layers": [0, 2], "ratio": 0.5, "threshold": 1, "median": 1, "channels": 4, "marked": 2,
             "removed": 2}  # fmt: skip
    head = {"format": "darkprune-plan/1", "cfg": {}, "weights": {}, "settings": {}, "layers": {}}
    with pytest.raises(PlanError, match="a number of layers or channels that no network has"):
        parse_plan(json.dumps({**head, "groups": [{**group, **change}]}))


def test_a_plan_takes_no_more_memory_than_its_network_could() -> None:
    head = {"format": "darkprune-plan/1", "cfg": {}, "weights": {}, "groups": [], "settings": {}}
    layers = {str(number): {"channels": 1 << 19, "keep": f"0-{(1 << 19) - 1}"} for number in range(500)}
    tracemalloc.start()
    try:
        with pytest.raises(PlanError, match="layer 2: channels=524288"):
            parse_plan(json.dumps({**head, "layers": layers}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20


def test_a_pipe_is_no_plan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="is not a regular file; expected a plan"):
        read_plan(tmp_path / "plan.json")
