"""Losses: the real program's deltas, hand-computed cases, properties."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import build_graph
from darkprune.training.losses import Loss, Truths, loss_of, make_truths
from darkprune.training.losses.boxes import best_iou, iou, overlap, overlap_gradient
from darkprune.training.losses.settings import limited
from darkprune.training.losses.truths import Assignment, match
from tests.training.delta_cases import CASES, GOLDEN, STRIDE, Case, Floats

EXPECTED = dict(np.load(GOLDEN).items())


def ours(case: Case) -> tuple[Floats, Loss]:
    graph = build_graph(parse_cfg(case.cfg(), case.name))
    raw = torch.from_numpy(case.raw()).requires_grad_()
    size = (case.columns * STRIDE, case.rows * STRIDE)
    found = loss_of(graph, graph[1])(raw, make_truths(case.labels()), size, case.seen)
    (gradient,) = torch.autograd.grad(found.value, raw)
    return -gradient.numpy(), found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_deltas_are_those_of_the_real_program(case: Case) -> None:
    expected = EXPECTED[case.name]
    delta, found = ours(case)
    assert np.count_nonzero(expected) > 100
    np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert found.parts[0].item() == pytest.approx(float(EXPECTED[f"{case.name}.cost"]), rel=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_alone_learns_what_it_learns_in_a_batch(case: Case) -> None:
    graph, size = build_graph(parse_cfg(case.cfg(), case.name)), (case.columns * STRIDE, case.rows * STRIDE)
    raw, labels = torch.from_numpy(case.raw()), case.labels()
    assert len(raw) > 1
    loss = loss_of(graph, graph[1])
    alone = loss.deltas(raw[:1], make_truths(labels[:1]), size, case.seen)[0]
    torch.testing.assert_close(alone, loss.deltas(raw, make_truths(labels), size, case.seen)[0][:1])


def test_crowded_cases_have_cells_with_several_objects() -> None:
    case = next(case for case in CASES if case.name == "yolov4")
    truths = make_truths(case.labels())
    grid, size = (case.columns, case.rows), (case.columns * STRIDE, case.rows * STRIDE)
    matches = match(truths, Assignment(((6, 7), (12, 9), (20, 26), (40, 30)), (1, 2), 0.213), grid, size)
    assert len(matches.turns) > 3
    entries = torch.stack([matches.image, matches.anchor, matches.row, matches.column])
    assert len(matches.turns) == entries.unique(dim=1, return_counts=True)[1].max()  # no more turns than are needed
    start = 0
    for end in matches.turns:
        cells = torch.stack([matches.image, matches.anchor, matches.row, matches.column])[:, start:end]
        assert len(cells.unique(dim=1)[0]) == end - start
        start = end


def test_gradient_scales_with_what_comes_from_above() -> None:
    case = CASES[0]
    graph = build_graph(parse_cfg(case.cfg(), case.name))
    raw = torch.from_numpy(case.raw()).requires_grad_()
    found = loss_of(graph, graph[1])(raw, make_truths(case.labels()), (52, 44), 0)
    (found.value * 0.25).backward()
    assert raw.grad is not None
    np.testing.assert_allclose(-raw.grad.numpy(), EXPECTED[case.name] / 4, rtol=1e-5, atol=1e-7)


def test_a_cell_by_hand() -> None:
    """One anchor, one cell, one object: every number worked out with a pencil."""
    text = (
        "[net]\nwidth=32\nheight=32\nchannels=6\n[convolutional]\nfilters=6\nstride=32\nactivation=linear\n"
        "[yolo]\nclasses=1\nnum=1\nanchors=16,8\nignore_thresh=.7\niou_normalizer=1\n"
    )
    graph = build_graph(parse_cfg(text, "cell"))
    raw = torch.zeros(1, 6, 1, 1, requires_grad=True)
    truth = np.array([[0, 0.75, 0.25, 0.5, 0.5]], np.float32)
    found = loss_of(graph, graph[1])(raw, make_truths([truth]), (32, 32), 0)
    found.value.backward()
    assert raw.grad is not None
    scale = 2 - 0.5 * 0.5
    wanted = [scale * 0.25, scale * -0.25, scale * math.log(16 / 16), scale * math.log(16 / 8), 0.5, 0.5]
    np.testing.assert_allclose(-raw.grad.flatten().numpy(), wanted, rtol=1e-6, atol=1e-7)
    assert found.parts[0].item() == pytest.approx(sum(value**2 for value in wanted), rel=1e-6)


@pytest.mark.parametrize(("objectness", "wanted"), [(0.0, -0.5), (-200.0, 1.0)])
def test_smooth_objectness_keeps_what_the_background_says(objectness: float, wanted: float) -> None:
    """`objectness_smooth`: an object is learnt only where the background says nothing, at an objectness of 0."""
    text = (
        "[net]\nwidth=32\nheight=32\nchannels=6\n[convolutional]\nfilters=6\nstride=32\nactivation=linear\n"
        "[yolo]\nclasses=1\nnum=1\nanchors=16,8\nobjectness_smooth=1\n"
    )
    graph = build_graph(parse_cfg(text, "cell"))
    raw = torch.zeros(1, 6, 1, 1)
    raw[0, 4] = objectness
    truth = make_truths([np.array([[0, 0.75, 0.25, 0.5, 0.5]], np.float32)])
    assert loss_of(graph, graph[1]).deltas(raw, truth, (32, 32), 0)[0][0, 4].item() == wanted


@pytest.mark.parametrize(("threshold", "wanted"), [(0.5, -0.5), (0.4999, 0.0)])
def test_background_that_overlaps_an_object_more_than_a_threshold_is_ignored(threshold: float, wanted: float) -> None:
    """The first anchor's box, 16x8, has the object, 16x4, as its half; the second anchor fits it and gets it."""
    text = (
        "[net]\nwidth=32\nheight=32\nchannels=12\n[convolutional]\nfilters=12\nstride=32\nactivation=linear\n"
        f"[yolo]\nclasses=1\nnum=2\nanchors=16,8, 16,4\nignore_thresh={threshold}\n"
    )
    graph = build_graph(parse_cfg(text, "cell"))
    truth = make_truths([np.array([[0, 0.5, 0.5, 0.5, 0.125]], np.float32)])
    delta = loss_of(graph, graph[1]).deltas(torch.zeros(1, 12, 1, 1), truth, (32, 32), 0)[0]
    assert delta.reshape(2, 6)[:, 4].tolist() == [wanted, 0.5]


def test_the_figure_of_one_object_by_hand() -> None:
    """Prediction and object share 1/4 x 1/8 of the image; objectness and class are off by a half each."""
    text = (
        "[net]\nwidth=32\nheight=32\nchannels=6\n[convolutional]\nfilters=6\nstride=32\nactivation=linear\n"
        "[yolo]\nclasses=1\nnum=1\nanchors=16,8\niou_loss={}\niou_normalizer=.5\nobj_normalizer=2\nshow_details={}\n"
    )
    truth = make_truths([np.array([[0, 0.75, 0.25, 0.5, 0.5]], np.float32)])
    shared = (1 / 32) / (1 / 8 + 1 / 4 - 1 / 32)
    around = 3 / 4 * 5 / 8  # the smallest box that holds both
    generalised = shared - (around - 11 / 32) / around
    for kind, details, wanted in (
        ("iou", 1, 0.5 * (1 - shared) + 2 * (1 + 1 / 4)),
        ("giou", 1, 0.5 * (1 - generalised) + 2 * (1 + 1 / 4)),
        ("iou", 0, None),
        ("mse", 1, None),
    ):
        graph = build_graph(parse_cfg(text.format(kind, details), "cell"))
        parts = loss_of(graph, graph[1])(torch.zeros(1, 6, 1, 1), truth, (32, 32), 0).parts.tolist()
        assert parts[2:4] == pytest.approx([1, 0.25])  # objectness weighs twice
        assert parts[4:] == pytest.approx([shared, 1])
        assert parts[0] == pytest.approx(sum(parts[1:4]) if wanted is None else wanted)


def test_the_figure_of_no_object_by_hand() -> None:
    """No box is missed; what is left is the objectness, off by a half, which weighs twice."""
    text = (
        "[net]\nwidth=32\nheight=32\nchannels=6\n[convolutional]\nfilters=6\nstride=32\nactivation=linear\n"
        "[yolo]\nclasses=1\nnum=1\nanchors=16,8\niou_loss=iou\nobj_normalizer=2\n"
    )
    graph = build_graph(parse_cfg(text, "cell"))
    truth = make_truths([np.zeros((0, 5), np.float32)])
    parts = loss_of(graph, graph[1])(torch.zeros(1, 6, 1, 1), truth, (32, 32), 0).parts.tolist()
    assert parts == pytest.approx([2 * 1, 0, 1, 0, 0, 0])


@pytest.mark.parametrize(("section", "y", "sides"), [("yolo", 1, [2, 3]), ("Gaussian_yolo", 2, [4, 6])])
def test_a_box_without_width_learns_all_the_same(section: str, y: int, sides: list[int]) -> None:
    """e^-200 is 0 in 32 bits: darknet takes 1 for the width then."""
    channels = sides[-1] + (3 if section == "yolo" else 4)
    text = (
        f"[net]\nwidth=32\nheight=32\nchannels={channels}\n[convolutional]\nfilters={channels}\nstride=32\n"
        f"activation=linear\n[{section}]\nclasses=1\nnum=1\nanchors=16,8\niou_loss=ciou\n"
    )
    graph = build_graph(parse_cfg(text, "cell"))
    none, whole = torch.zeros(2, 1, channels, 1, 1)
    none[0, sides] = -200
    whole[0, sides, 0, 0] = torch.tensor([2.0, 4.0]).log()  # the anchor is 1/2 x 1/4 of the image
    truth = make_truths([np.array([[0, 0.75, 0.25, 0.5, 0.5]], np.float32)])
    delta, same = (loss_of(graph, graph[1]).deltas(raw, truth, (32, 32), 0)[0].flatten() for raw in (none, whole))
    assert delta[-2:].tolist() == [0.5, 0.5]
    assert delta.isfinite().all()
    assert delta[0] > 0 > delta[y]
    assert delta[[0, y]].tolist() == pytest.approx(same[[0, y]].tolist())


@pytest.mark.parametrize("section", ["yolo", "Gaussian_yolo"])
def test_deltas_are_scaled_as_they_leave_the_head(section: str) -> None:
    """`delta_normalizer` counts in the gradient, not in the figure (`yolo_layer.c`: scal_cpu at the end)."""
    case, found = Case("x", section=section), []
    for factor in (1, 0.25):
        graph = build_graph(parse_cfg(replace(case, keys={"delta_normalizer": factor}).cfg(), case.name))
        raw = torch.from_numpy(case.raw()).requires_grad_()
        loss = loss_of(graph, graph[1])(raw, make_truths(case.labels()), (52, 44), 0)
        loss.value.backward()
        assert raw.grad is not None
        found.append((raw.grad, loss.parts))
    torch.testing.assert_close(found[1][0], found[0][0] / 4)
    assert torch.equal(found[0][1], found[1][1])


def test_without_objects_only_objectness_learns() -> None:
    case = CASES[0]
    graph = build_graph(parse_cfg(case.cfg(), case.name))
    raw = torch.from_numpy(case.raw()).requires_grad_()
    found = loss_of(graph, graph[1])(raw, make_truths([np.zeros((0, 5), np.float32)] * 2), (52, 44), 0)
    found.value.backward()
    assert raw.grad is not None
    gradient = raw.grad.reshape(2, 2, 8, 11, 13)
    assert float(gradient[:, :, :4].abs().sum() + gradient[:, :, 5:].abs().sum()) == 0
    np.testing.assert_allclose(
        gradient[:, :, 4].numpy(), torch.from_numpy(case.raw()).reshape(2, 2, 8, 11, 13)[:, :, 4].sigmoid(), rtol=1e-5
    )


@pytest.mark.parametrize(("seen", "drawn"), [(12_799, True), (12_800, False)])
def test_region_draws_boxes_to_their_anchors_for_12800_images(seen: int, drawn: bool) -> None:
    """Without objects: x and y towards the middle of the cell, by 0.01 and the slope of the logistic function."""
    case = Case("x", section="region")
    graph = build_graph(parse_cfg(case.cfg(), case.name))
    nothing = make_truths([np.zeros((0, 5), np.float32)] * case.images)
    raw = torch.from_numpy(case.raw())
    delta = loss_of(graph, graph[1]).deltas(raw, nothing, (52, 44), seen)[0]
    x = raw[:, 0].sigmoid()
    wanted = 0.01 * (0.5 - x) * x * (1 - x) if drawn else torch.zeros_like(x)
    torch.testing.assert_close(delta[:, 0], wanted, rtol=1e-4, atol=1e-8)


def test_classfix_teaches_classes_wherever_a_box_fits() -> None:
    """1 as much as elsewhere, 2 in proportion to the objectness there (`region_layer.c`)."""
    deltas = []
    for value in (0, 1, 2):
        case = Case("x", section="region", keys={"classfix": value, "thresh": 0.3})
        graph = build_graph(parse_cfg(case.cfg(), case.name))
        raw, truth = torch.from_numpy(case.raw()), make_truths(case.labels())
        found = loss_of(graph, graph[1]).deltas(raw, truth, (52, 44), 20_000)[0]
        deltas.append(found.unflatten(1, (case.anchors, case.features)))
    taught, scaled = (delta[:, :, 5:] - deltas[0][:, :, 5:] for delta in deltas[1:])
    objectness = raw.unflatten(1, (case.anchors, case.features))[:, :, 4:5].sigmoid()
    assert taught.any()
    torch.testing.assert_close(scaled, taught * objectness)


@pytest.mark.parametrize("section", ["yolo", "Gaussian_yolo", "region"])
def test_classes_beyond_the_head_are_left_out(section: str) -> None:
    case = Case("x", section=section)
    graph = build_graph(parse_cfg(case.cfg(), case.name))
    loss = loss_of(graph, graph[1])
    raw = torch.from_numpy(case.raw())
    labels = case.labels()
    strange = [np.concatenate([np.array([[9, 0.5, 0.5, 0.3, 0.3]], np.float32), rows]) for rows in labels]
    with_, without = (loss.deltas(raw, make_truths(each).limited(3, 200), (52, 44), 0) for each in (strange, labels))
    torch.testing.assert_close(with_[0], without[0])


@pytest.mark.parametrize(
    ("extra", "message"),
    [("map=x.map", "map="), ("counters_per_class=1,2", "2 values for classes=3")],
)
def test_keys_that_cannot_be_trained_are_named(extra: str, message: str) -> None:
    key, _, value = extra.partition("=")
    case = Case("x", keys={key: value})
    graph = build_graph(parse_cfg(case.cfg(), "bad.cfg"))
    with pytest.raises(DarkpruneError, match=message):
        loss_of(graph, graph[1])


boxes_strategy = st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(boxes_strategy, boxes_strategy)
def test_overlaps_are_ordered(first: list[float], second: list[float]) -> None:
    # in 64 bits: the rounding of 32 is as large as the slack below
    a, b = torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)
    shared = float(iou(a, b))
    assert 0 <= shared <= 1 + 1e-6
    assert float(iou(a, a)) == pytest.approx(1, abs=1e-5)
    for kind in ("giou", "diou", "ciou"):
        assert float(overlap(a, b, kind)) <= shared + 1e-6


def test_overlaps_by_hand() -> None:
    """Boxes of 4 x 2 and 2 x 4 whose centres are 2 and 1 apart: they share 1 x 2, their hull is 5 x 4."""
    a, b = torch.tensor([[2.0, 1.0, 4.0, 2.0]]), torch.tensor([[4.0, 2.0, 2.0, 4.0]])
    shared, distance = 2 / 14, (2**2 + 1**2) / (5**2 + 4**2)
    aspect = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    wanted = {
        "iou": shared,
        "giou": shared - (20 - 14) / 20,
        "diou": shared - distance**0.6,
        "ciou": shared - distance - aspect**2 / (1 - shared + aspect),
    }
    assert {kind: float(overlap(a, b, kind)) for kind in wanted} == pytest.approx(wanted, rel=1e-5)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(boxes_strategy, boxes_strategy)
def test_iou_gradient_is_the_derivative_where_boxes_overlap(first: list[float], second: list[float]) -> None:
    pred, truth = torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)
    if float(iou(pred, truth)) < 0.05:
        return
    given_ = overlap_gradient(pred, truth, "iou")[0]
    step = 1e-7
    for axis in range(4):
        moved = [pred.clone(), pred.clone()]
        moved[0][0, axis] += step
        moved[1][0, axis] -= step
        up, down = float(iou(moved[0], truth)), float(iou(moved[1], truth))
        middle = float(iou(pred, truth))
        if abs((up - middle) + (down - middle)) > 1e-10:
            continue  # two sides meet here: the derivative jumps
        derivative = (up - down) / (2 * step)
        # darknet does not halve the derivative by width and height
        assert float(given_[axis]) == pytest.approx(derivative * (1 if axis < 2 else 2), rel=1e-3, abs=1e-4)


def test_best_iou_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    boxes = torch.from_numpy(draw.uniform(0.1, 0.5, (5, 40, 4)).astype(np.float32))
    truths = torch.from_numpy(draw.uniform(0.1, 0.5, (5, 7, 4)).astype(np.float32))
    whole = best_iou(boxes, truths)
    monkeypatch.setattr("darkprune.training.losses.boxes.PAIRS_AT_ONCE", 300)
    parts = best_iou(boxes, truths)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_truths_are_padded_and_limited() -> None:
    rows: list[npt.NDArray[np.float32]] = [
        np.array([[1, 0.5, 0.5, 0.1, 0.1]], np.float32),
        np.zeros((0, 5), np.float32),
        np.array([[0, 0.1, 0.2, 0.3, 0.4], [5, 0.1, 0.2, 0.3, 0.4], [2, 0.9, 0.9, 0.1, 0.1]], np.float32),
    ]
    truths: Truths = make_truths(rows).limited(3, 2)
    assert truths.classes.tolist() == [[1, -1], [-1, -1], [0, -1]]
    assert float(truths.boxes[2, 1].sum()) == 0


def test_an_object_on_the_far_edge_stays_in_its_row() -> None:
    truths = make_truths([np.array([[0, 1.0, 1.0, 0.2, 0.2]], np.float32)])
    matches = match(truths, Assignment(((10, 10),), (0,)), (13, 11), (52, 44))
    assert (matches.column.item(), matches.row.item()) == (12, 10)


@pytest.mark.parametrize("best_always", [True, False])
def test_an_object_goes_to_the_best_anchor_and_to_those_above_a_threshold(best_always: bool) -> None:
    """A square of 20 pixels overlaps 20x14 by 0.7, 24x24 by 0.69, and 4x4 by 0.04."""
    truths = make_truths([np.array([[0, 0.5, 0.5, 20 / 52, 20 / 44]], np.float32)])
    rule = Assignment(((4, 4), (20, 14), (24, 24)), (0, 1, 2), 0.6, best_always=best_always)
    assert sorted(match(truths, rule, (13, 11), (52, 44)).anchor.tolist()) == [1, 2]
    strict = replace(rule, threshold=0.695)
    assert sorted(match(truths, strict, (13, 11), (52, 44)).anchor.tolist()) == [1]
    none = replace(rule, threshold=0.9)
    assert match(truths, none, (13, 11), (52, 44)).anchor.tolist() == ([1] if best_always else [])


#: of `parse_yolo`, `parse_gaussian_yolo` and `parse_region`
HEAD_DEFAULTS = {
    "iou_loss": "mse", "iou_normalizer": 0.75, "obj_normalizer": 1, "cls_normalizer": 1, "delta_normalizer": 1,
    "iou_thresh": 1, "iou_thresh_kind": "iou", "ignore_thresh": 0.5, "truth_thresh": 1, "label_smooth_eps": 0,
    "objectness_smooth": False, "max_delta": None, "class_weights": None, "max": 200,
}  # fmt: skip
DEFAULTS = {
    "yolo": {**HEAD_DEFAULTS, "focal_loss": False, "show_details": True},
    "Gaussian_yolo": {**HEAD_DEFAULTS, "uc_normalizer": 1},
    "region": {
        "thresh": 0.5, "classfix": 0, "rescore": False, "bias_match": False, "focal_loss": False, "coord_scale": 1,
        "object_scale": 1, "noobject_scale": 1, "class_scale": 1, "max": 200,
    },
}  # fmt: skip


def settings_of(section: str, keys: str = "") -> dict[str, object]:
    filters = {"yolo": 8, "Gaussian_yolo": 12, "region": 8}[section]
    net = f"[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters={filters}\n"
    graph = build_graph(parse_cfg(f"{net}[{section}]\nclasses=3\n{keys}"))
    return asdict(loss_of(graph, graph[1]).settings)  # type: ignore[attr-defined]


@pytest.mark.parametrize("section", DEFAULTS)
def test_keys_left_out(section: str) -> None:
    assert settings_of(section) == DEFAULTS[section]


@pytest.mark.parametrize("section", DEFAULTS)
def test_keys_that_are_given(section: str) -> None:
    names = [name for name, value in DEFAULTS[section].items() if not isinstance(value, str | None)]
    found = settings_of(section, "".join(f"{name}=1\n" for name in names))
    assert {name: found[name] for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize(("text", "kind"), [("ciou", "ciou"), ("giou", "giou"), ("diou", "diou"), ("eiou", "iou")])
def test_an_overlap_that_darknet_does_not_know_is_iou(text: str, kind: str) -> None:
    found = settings_of("yolo", f"iou_loss={text}\niou_thresh_kind={text}\n")
    assert (found["iou_loss"], found["iou_thresh_kind"]) == (kind, kind)


def test_rare_classes_weigh_more() -> None:
    """The largest counter through the class's own, at most `max_delta`; a class never seen counts as seen once."""
    assert settings_of("yolo", "counters_per_class=8,2,0\n")["class_weights"] == (1, 4, 8)
    assert settings_of("yolo", "counters_per_class=8,2,0\nmax_delta=5\n")["class_weights"] == (1, 4, 5)


@pytest.mark.parametrize("section", DEFAULTS)
def test_objects_beyond_max_are_not_learnt(section: str) -> None:
    case = Case("x", section=section)
    first = make_truths([rows[:1] for rows in case.labels()])
    found = []
    for keys, truths in (({"max": 1}, make_truths(case.labels())), ({}, first), ({}, make_truths(case.labels()))):
        graph = build_graph(parse_cfg(replace(case, keys=keys).cfg(), case.name))
        raw = torch.from_numpy(case.raw()).requires_grad_()
        loss_of(graph, graph[1])(raw, truths, (52, 44), 20_000).value.backward()
        found.append(raw.grad)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_limited_deltas() -> None:
    wanted = torch.tensor([math.nan, math.inf, -math.inf, 7.0, -7.0, 0.5])
    assert limited(wanted, 2).tolist() == [0, 0, 0, 2, -2, 0.5]
    assert limited(wanted, None).tolist() == [0, 0, 0, 7, -7, 0.5]
