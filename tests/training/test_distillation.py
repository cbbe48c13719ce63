"""Distillation against numbers worked out by hand, and taps on real networks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import darkprune as dp
from darkprune.cli.compression import prune
from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.weights import Header
from darkprune.errors import TrainingError, UsageError
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.groups import divide
from darkprune.layers.heads import Yolo
from darkprune.network import NetworkOutput, save_weights
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.removed_units import without_units
from darkprune.surgery.units import Unit
from darkprune.training.data.batches import Batch
from darkprune.training.distillation.distillation import DistillationObjective, attention, attention_loss, feature_loss
from darkprune.training.distillation.soft_head import SoftHead, class_loss
from darkprune.training.distillation.taps import CHU2022, Tap, choose_taps, match_taps, parse_taps, with_channels
from darkprune.training.distillation.terms import PRESETS, LossTerms
from darkprune.training.loop.objective import DetectionObjective
from darkprune.training.losses import make_truths
from darkprune.training.settings import RunSettings
from darkprune.zoo import resolve
from tests.training.test_training_commands import call
from tests.training.tiny import CFG, fresh_network, make_trainer, tiny_graph, write_images


def test_attention_by_hand() -> None:
    teacher = torch.tensor([[[[1.0, 2.0]], [[2.0, 0.0]]]])  # Σ_c a²: 5, 4
    student = torch.tensor([[[[3.0, 0.0]]]])  # 9, 0
    norm = math.hypot(5, 4)
    assert attention(teacher).tolist() == [pytest.approx([5 / norm, 4 / norm])]
    assert attention(student).tolist() == [pytest.approx([1.0, 0.0])]
    apart = (5 / norm - 1) ** 2 + (4 / norm) ** 2
    assert float(attention_loss(teacher, student)) == pytest.approx(apart)
    assert float(attention_loss(teacher, student, mean=True)) == pytest.approx(apart / 2)
    both = torch.cat([teacher, teacher]), torch.cat([student, student])
    assert float(attention_loss(*both)) == pytest.approx(2 * apart)
    assert float(attention_loss(teacher, 3 * teacher)) == pytest.approx(0, abs=1e-12)


def test_attention_gradient_is_the_derivative() -> None:
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 5, 3, 4, generator=random, dtype=torch.float64).float()
    student = torch.randn(2, 2, 3, 4, generator=random).requires_grad_()
    attention_loss(teacher, student).backward()
    assert student.grad is not None
    step = 1e-3
    for place in [(0, 0, 0, 0), (1, 1, 2, 3), (0, 1, 1, 2)]:
        moved = [student.detach().clone(), student.detach().clone()]
        moved[0][place] += step
        moved[1][place] -= step
        slope = (attention_loss(teacher, moved[0]) - attention_loss(teacher, moved[1])) / (2 * step)
        assert float(student.grad[place]) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)


def test_class_divergence_by_hand() -> None:
    teacher, student, temperature = [1.0, 3.0], [2.0, 0.0], 2.0
    m = np.exp(np.array(teacher) / temperature)
    m /= m.sum()
    n = np.array(student) / temperature
    n = n - np.log(np.exp(n).sum())
    expected = float((m * (np.log(m) - n)).sum())
    found = class_loss(torch.tensor([teacher]), torch.tensor([student]), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(class_loss(torch.tensor([teacher]), torch.tensor([teacher]), 3.0)) == pytest.approx(0, abs=1e-7)


def head_graph() -> SoftHead:
    kind = tiny_graph()[7].kind
    assert isinstance(kind, Yolo)
    return SoftHead(kind)


def test_boxes_by_hand() -> None:
    head = head_graph()
    raw = torch.zeros(1, 14, 8, 8)
    raw[0, 7:11, 3, 5] = torch.tensor([0.0, math.log(3), 0.5, -0.5])  # the second anchor: 16x14 pixels
    place = tuple(torch.tensor([value]) for value in (0, 1, 3, 5))
    box = head.boxes(head.cells(raw), place, (8, 8), (32, 32))
    wanted = [0.5, 0.75, math.exp(0.5) * 16 / 4, math.exp(-0.5) * 14 / 4]
    assert box.tolist() == [pytest.approx(wanted, rel=1e-5)]


def objective(terms: LossTerms, labelled: bool) -> tuple[DistillationObjective, Batch, torch.Tensor]:
    graph = tiny_graph()
    teacher = fresh_network(graph, 1)
    taps = (Tap(3, 3, 10.0), Tap(4, 4, 1.0))
    hard = DetectionObjective(graph) if labelled else None
    pixels = torch.randint(0, 255, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    truth = np.array([[1, 0.4, 0.6, 0.5, 0.45]], np.float32)
    batch = Batch(0, pixels, make_truths([truth, truth, np.zeros((0, 5), np.float32)]), (0, 1, 2), ())
    return DistillationObjective(graph, teacher, taps, terms, hard), batch, batch.images(torch.device("cpu"))


@pytest.mark.parametrize("preset", ["paper-literal", "chu2022"])
@pytest.mark.parametrize("labelled", [True, False])
def test_the_parts_add_up(preset: str, labelled: bool) -> None:
    settings = PRESETS[preset]
    distilled, batch, images = objective(settings, labelled)
    student = fresh_network(tiny_graph(), 2).eval()
    output = student(images, distilled.taps)
    loss = distilled.compute(output, batch, 3, distilled.teach(images))
    sums = loss.parts.tolist()
    found = distilled.report(sums, 3)
    assert tuple(found) == distilled.columns
    with torch.no_grad():
        wanted = distilled.teacher(images, {3, 4})
    expected = sum(
        weight * float(attention_loss(wanted.taps[layer], output.taps[layer].detach(), mean=preset == "chu2022"))
        for layer, weight in ((3, 10.0), (4, 1.0))
    )
    assert found["attention"] == pytest.approx(expected / 3, rel=1e-5)
    theirs, ours = (o.heads[7].detach().double().reshape(3, 2, 7, 8, 8).numpy() for o in (wanted, output))
    first = 4 if preset == "chu2022" else 5
    m, n = (np.exp(x[:, :, first:] / 3) / np.exp(x[:, :, first:] / 3).sum(2, keepdims=True) for x in (theirs, ours))
    divergence = (m * (np.log(m) - np.log(n))).sum(2)
    classes = divergence.sum() * 9 * 0.001 if preset == "chu2022" else divergence.mean(axis=(1, 2, 3)).sum()
    assert found["soft_class"] == pytest.approx(classes / 3, rel=1e-4)
    hard = found.get("hard", 0.0)
    soft = found["attention"] + found["soft_class"] + found["soft_box"]
    assert found["loss"] == pytest.approx(soft + hard, rel=1e-5)
    assert ("hard" in found) == labelled


def test_the_gradient_is_the_sum_of_the_parts() -> None:
    both, batch, images = objective(LossTerms(box_weight=0.0), True)
    student = fresh_network(tiny_graph(), 2).eval()
    gradients = []
    for settings in (both.terms, replace(both.terms, hard_weight=0.0)):
        student.zero_grad()
        each, _, _ = objective(settings, True)
        each.compute(student(images, each.taps), batch, 3, each.teach(images)).value.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    student.zero_grad()
    DetectionObjective(tiny_graph()).compute(student(images), batch, 3, None).value.backward()
    hard = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1] + hard, rtol=1e-4, atol=1e-4)


def test_scaled_by_objectness_by_hand() -> None:
    """Every prediction of a random head, one after the other, and the gradient of the objectness."""
    random = np.random.default_rng(0)
    theirs, ours = (random.normal(size=(1, 14, 2, 3)) * 2 for _ in range(2))
    head = head_graph()

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def divergence(teacher: float, student: float) -> float:
        p, q = sigmoid(teacher), sigmoid(student)
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    scores = boxes = 0.0
    for anchor in range(2):
        for place in np.ndindex(2, 3):
            t, s = (x[0, 7 * anchor : 7 * anchor + 7, place[0], place[1]] for x in (theirs, ours))
            objectness = sigmoid(t[4])
            scores += divergence(t[4], s[4]) + objectness * sum(divergence(t[k], s[k]) for k in (5, 6))
            offsets = sum((head.stretch * (sigmoid(t[k]) - sigmoid(s[k]))) ** 2 for k in (0, 1))
            boxes += objectness * (offsets + sum((t[k] - s[k]) ** 2 for k in (2, 3)))
    student = torch.tensor(ours, requires_grad=True)
    found = head.scaled_by_objectness(head.cells(torch.tensor(theirs)), head.cells(student))
    assert [float(each.detach()) for each in found] == pytest.approx([scores, boxes], rel=1e-4)
    found[0].backward()
    assert student.grad is not None
    wanted = sigmoid(ours[0, 11, 1, 2]) - sigmoid(theirs[0, 11, 1, 2])  # as darknet's delta of objectness
    assert float(student.grad[0, 11, 1, 2]) == pytest.approx(wanted, rel=1e-4)


def test_objectness_preset_without_labels() -> None:
    distilled, batch, images = objective(PRESETS["objectness"], False)
    output = fresh_network(tiny_graph(), 2).eval()(images, distilled.taps)
    found = distilled.report(distilled.compute(output, batch, 3, distilled.teach(images)).parts.tolist(), 3)
    with torch.no_grad():
        wanted = distilled.teacher(images)
        head = head_graph()
        soft = head.scaled_by_objectness(head.cells(wanted.heads[7]), head.cells(output.heads[7]))
    assert (found["soft_class"], found["soft_box"]) == pytest.approx([float(each) / 3 for each in soft], rel=1e-5)
    assert found["loss"] == pytest.approx(sum(found[part] for part in distilled.columns[1:]), rel=1e-5)


def test_boxes_count_where_priors_overlap_objects() -> None:
    """One object of 16x14 pixels: the second anchor (16x14) overlaps it fully, the first (8x8) by 0.29."""
    head = head_graph()
    truths = make_truths([np.array([[0, 0.3, 0.7, 0.5, 14 / 32]], np.float32)])
    cells = head.cells(torch.zeros(1, 14, 8, 8))
    for threshold, anchors in ((0.2, [0, 1]), (0.5, [1])):
        image, anchor, row, column = head.priors(cells, truths, threshold, (8, 8), (32, 32))
        assert sorted(anchor.tolist()) == anchors
        assert set(image.tolist()) == {0}
        assert (set(row.tolist()), set(column.tolist())) == ({5}, {2})
    cells[0, 1, 4, 6, 4] = 2.0
    cells[0, 0, :, :, 4] = -3.0
    cells[0, 1, :, :, 4] -= 3.0
    cells[0, 1, 4, 6, 4] = 2.0
    assert [int(each) for each in torch.stack(head.priors(cells, None, 0.2, (8, 8), (32, 32)))] == [0, 1, 4, 6]


def test_the_teacher_stays_as_it_is(tmp_path: Path) -> None:
    distilled, _, _ = objective(PRESETS["paper"], True)
    before = {name: tensor.clone() for name, tensor in distilled.teacher.state_dict().items()}
    data = write_images(tmp_path / "data", 6)
    trainer = make_trainer(
        tiny_graph(), data, tmp_path / "run", objective=distilled, settings=RunSettings(iterations=3, lr=1e-4)
    )
    outcome = trainer.run()
    assert outcome.steps == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in distilled.teacher.state_dict().items())
    header = (tmp_path / "run" / "log.csv").read_text().splitlines()[0]
    assert header.startswith("step,rate,loss,attention,soft_class,soft_box,hard,box")


def test_other_heads_are_refused() -> None:
    graph = tiny_graph()
    other = build_graph(parse_cfg(CFG.replace("classes=2", "classes=3").replace("filters=14", "filters=16"), "x.cfg"))
    with pytest.raises(TrainingError, match="different heads"):
        DistillationObjective(graph, fresh_network(other), (), PRESETS["paper"], None)


def test_taps_of_yolov4_are_the_papers() -> None:
    graph = read_graph(resolve("builtin:yolov4-voc"))
    groups = divide(graph, "yolov4")
    paper = choose_taps(graph, groups, "paper")
    side = graph.net.input.w
    assert [side // graph[layer].output.w for layer in sorted(paper)] == [2, 4, 8, 16, 32]
    assert sorted(paper) == [10, 23, 54, 85, 117]
    assert [paper[layer] for layer in sorted(paper)] == [1e3, 1e3, 1e3, 1e4, 1e4]
    assert choose_taps(graph, groups, "chu2022") == CHU2022


def test_taps_of_yolov3_have_four_scales() -> None:
    graph = read_graph(resolve("builtin:yolov3"))
    paper = choose_taps(graph, divide(graph, "yolov3"), "paper")
    assert [graph.net.input.w // graph[layer].output.w for layer in sorted(paper)] == [4, 8, 16, 32]


@pytest.mark.parametrize("name", ["yolov4-tiny", "yolov4-csp", "yolov2-tiny", "yolov3-tiny", "cells"])
def test_taps_of_any_network(name: str) -> None:
    graph = read_graph(resolve(f"builtin:{name}"))
    groups = divide(graph, "auto")
    for preset in ("paper", "chu2022"):
        taps = match_taps(choose_taps(graph, groups, preset), graph, graph, None)
        assert len(taps) >= 3
        fed = {graph[head.index].sources[0] for head in graph.heads}
        assert all(tap.teacher == tap.student and tap.teacher not in fed for tap in taps)


def test_taps_follow_a_student_without_units() -> None:
    teacher = tiny_graph()
    unit = Unit(1, 3)
    student = build_graph(without_units(teacher, [unit]))
    plan = Plan("", "", ("a", "b"), {}, (), {}, units=(unit,))
    taps = match_taps({3: 1.0, 4: 2.0}, teacher, student, plan)
    assert taps == (Tap(3, 0, 1.0), Tap(4, 1, 2.0))
    with pytest.raises(TrainingError, match="unit that the student does not have"):
        match_taps({1: 1.0}, teacher, student, plan)
    with pytest.raises(TrainingError, match="--plan"):
        match_taps({3: 1.0}, teacher, student, None)


def test_taps_by_hand() -> None:
    assert parse_taps("3:1000, 4:1e4", 8) == {3: 1000.0, 4: 10000.0}
    for wrong in ("3", "3:x", "9:1", ""):
        with pytest.raises(UsageError):
            parse_taps(wrong, 8)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("preset", ["paper", "chu2022"])
def test_the_box_term_on_an_input_that_is_not_square(preset: str) -> None:
    """Input 64x32, map 16x8: one object, one matched prior, the distance worked out by hand."""
    graph = tiny_graph(width=64, height=32)
    random = np.random.default_rng(1)
    theirs, ours = (random.normal(0, 0.7, (1, 14, 8, 16)).astype(np.float32) for _ in range(2))
    x, y = 0.7, 0.3  # column 11 of 16, row 2 of 8
    truths = make_truths([np.array([[0, x, y, 16 / 64, 14 / 32]], np.float32)])
    batch = Batch(0, torch.zeros(1, 32, 64, 3, dtype=torch.uint8), truths, (0,), ())
    settings = replace(PRESETS[preset], box_threshold=0.5, box_weight=1.0)
    distilled = DistillationObjective(graph, fresh_network(graph), (), settings, DetectionObjective(graph))
    head, _ = distilled._heads[0]
    _, found = distilled._soft(head, torch.from_numpy(theirs), torch.from_numpy(ours), batch)
    teacher, student = (raw[0, 7:11, 2, 11] for raw in (theirs, ours))  # the anchor of 16x14 pixels
    apart = [_sigmoid(teacher[k]) - _sigmoid(student[k]) for k in (0, 1)]
    sides = [math.exp(teacher[k]) - math.exp(student[k]) for k in (2, 3)]
    if preset == "paper":  # in parts of the input
        apart = [apart[0] / 16, apart[1] / 8, sides[0] * 16 / 64, sides[1] * 14 / 32]
    else:  # in cells of 4x4 pixels
        apart += [sides[0] * 16 / 4, sides[1] * 14 / 4]
    assert float(found) == pytest.approx(sum(value**2 for value in apart), rel=1e-4)


def test_anchors_of_a_region_head_are_in_cells() -> None:
    """Input 64x32, map 8x4: anchors of 1x1 and 2x1.5 cells, that is 8x8 and 16x12 pixels."""
    text = (
        CFG[: CFG.index("[yolo]")]
        .replace("width=32", "width=64")
        .replace("stride=2\npad=1\nactivation=mish", "stride=4\npad=1\nactivation=mish")
        + "[region]\nanchors=1,1, 2,1.5\nclasses=2\nnum=2\ncoords=4\n"
    )
    graph = build_graph(parse_cfg(text, "region.cfg"))
    assert (graph.heads[0].output.w, graph.heads[0].output.h) == (8, 4)
    head = SoftHead(graph.heads[0].kind)
    raw = torch.zeros(1, 14, 4, 8)
    raw[0, 7:11, 1, 6] = torch.tensor([0.0, math.log(3), 0.5, -0.5])
    box = head.boxes(head.cells(raw), tuple(torch.tensor([value]) for value in (0, 1, 1, 6)), (8, 4), (64, 32))
    assert box.tolist() == [pytest.approx([0.5, 0.75, math.exp(0.5) * 2, math.exp(-0.5) * 1.5], rel=1e-5)]
    truths = make_truths([np.array([[1, 0.8, 0.3, 16 / 64, 12 / 32]], np.float32)])
    found = head.priors(head.cells(raw), truths, 0.5, (8, 4), (64, 32))
    assert [each.tolist() for each in found] == [[0], [1], [1], [6]]  # 16x12 fits, 8x8 overlaps it by a third


def test_features_are_compared_by_correlation() -> None:
    """Half the squared distance of normalised channels is 1 − Pearson's r."""
    random = np.random.default_rng(0)
    teacher = random.normal(size=(3, 4, 5, 6))
    student = 0.7 * teacher + random.normal(size=teacher.shape)
    found = feature_loss(torch.tensor(teacher), torch.tensor(student))
    rows = [(x.transpose(1, 0, 2, 3).reshape(4, -1)) for x in (teacher, student)]
    correlations = [np.corrcoef(rows[0][channel], rows[1][channel])[0, 1] for channel in range(4)]
    assert float(found) == pytest.approx(3 * (1 - np.mean(correlations)), rel=1e-4)
    shifted = torch.tensor(teacher) * torch.tensor([2.0, 0.1, 5.0, 1.0]).reshape(4, 1, 1) + 3
    assert float(feature_loss(torch.tensor(teacher), shifted)) == pytest.approx(0, abs=1e-3)
    constant = torch.zeros(2, 1, 3, 3)
    assert feature_loss(constant, constant.clone().requires_grad_()).isfinite()


@pytest.mark.parametrize(("name", "layers"), [("yolov4-voc", [137, 148, 159]), ("yolov3-tiny", [14, 21])])
def test_features_are_those_before_the_heads(name: str, layers: list[int]) -> None:
    graph = read_graph(resolve(f"builtin:{name}"))
    chosen = choose_taps(graph, divide(graph, "auto"), "features")
    assert sorted(chosen) == layers
    for layer in layers:
        reader = graph[graph.consumers[layer][0]]
        assert graph.consumers[reader.index] == (reader.index + 1,)
        assert graph[reader.index + 1].name == "yolo"


def pruned(tmp_path: Path, *words: object) -> tuple[Graph, Plan]:
    """The tiny network with fresh weights, cut by `darkprune prune`."""
    (tmp_path / "tiny.cfg").write_text(CFG)
    with (tmp_path / "tiny.weights").open("wb") as file:
        save_weights(fresh_network(tiny_graph(), 3), file, Header())
    pair = (tmp_path / "tiny.cfg", tmp_path / "tiny.weights")
    assert call(prune, *pair, "-o", tmp_path / "slim", "--min-channels", "2", *words) == 0
    return read_graph(tmp_path / "slim" / "tiny.cfg"), read_plan(tmp_path / "slim" / "plan.json")


def test_channels_follow_the_plan(tmp_path: Path) -> None:
    student, plan = pruned(tmp_path, "--ratio", "0.4", "--criterion", "l2", "--compensate", "carrier")
    taps = match_taps({3: 1.0, 4: 1.0}, tiny_graph(), student, plan)
    found = with_channels(taps, tiny_graph(), student, plan)
    _, kept, carriers = plan.layers[2]  # what the shortcut, layer 3, adds to layer 0
    assert carriers
    assert found[0].channels == tuple((old, new) for new, old in enumerate(kept) if old not in carriers)
    assert found[1].channels == tuple((old, new) for new, old in enumerate(plan.layers[4][1]))
    with pytest.raises(TrainingError, match="--plan"):
        with_channels(taps, tiny_graph(), student, None)
    with pytest.raises(TrainingError, match="not cut by this plan"):
        with_channels(match_taps({4: 1.0}, tiny_graph(), tiny_graph(), plan), tiny_graph(), tiny_graph(), plan)
    whole = with_channels((Tap(4, 4, 1.0),), tiny_graph(), tiny_graph(), None)
    assert whole[0].channels == tuple((channel, channel) for channel in range(16))


@pytest.mark.parametrize(("preset", "labelled"), [("paper", True), ("features", True), ("features", False)])
def test_the_term_of_the_maps_begins_as_large_as_the_other(preset: str, labelled: bool) -> None:
    distilled, batch, images = objective(PRESETS[preset], labelled)
    distilled.pairs = with_channels(distilled.pairs, tiny_graph(), tiny_graph(), None)
    student = fresh_network(tiny_graph(), 2).eval()
    found = distilled.report(
        distilled.compute(student(images, distilled.taps), batch, 3, distilled.teach(images)).parts.tolist(), 3
    )
    maps = found["features" if preset == "features" else "attention"]
    if labelled:
        hard = DetectionObjective(tiny_graph()).compute(student(images), batch, 3, None)
        assert maps == pytest.approx(float(hard.value.detach()) / 3, rel=1e-4)
    else:
        assert maps == pytest.approx(found["soft_class"] + found["soft_box"], rel=1e-4)
    # a weight comes on top
    half, _, _ = objective(replace(PRESETS[preset], maps_weight=0.5), labelled)
    half.pairs = distilled.pairs
    parts = half.compute(student(images, half.taps), batch, 3, half.teach(images)).parts
    assert float(parts[1]) / 3 == pytest.approx(maps / 2, rel=1e-4)
    # the factor stays, also in a resumed run
    other = fresh_network(tiny_graph(), 5).eval()
    output = other(images, distilled.taps)
    later = distilled.compute(output, batch, 3, distilled.teach(images)).parts
    again, _, _ = objective(PRESETS[preset], labelled)
    again.pairs = with_channels(again.pairs, tiny_graph(), tiny_graph(), None)
    again.load_state_dict(distilled.state_dict())
    assert torch.equal(again.compute(output, batch, 3, again.teach(images)).parts, later)
    assert float(later[1]) / 3 != pytest.approx(maps, rel=1e-2)


def test_a_teacher_works_in_the_precision_of_its_student(tmp_path: Path) -> None:
    distilled, _, _ = objective(PRESETS["objectness"], True)
    seen = set()
    teach = distilled.teach

    def watched(images: torch.Tensor) -> NetworkOutput:
        output = teach(images)
        seen.add(output.heads[7].dtype)
        return output

    distilled.teach = watched  # type: ignore[method-assign]
    data = write_images(tmp_path / "data", 6)
    settings = RunSettings(iterations=1, precision="bf16")
    make_trainer(tiny_graph(), data, tmp_path / "run", objective=distilled, settings=settings).run()
    assert seen == {torch.bfloat16}


def test_features_through_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plan beside the student, and while the student is pruned further."""
    write_images(tmp_path, 8)
    pruned(tmp_path, "--ratio", "0.3", "--criterion", "l2")
    monkeypatch.chdir(tmp_path)
    teacher, student = dp.load("tiny.cfg", "tiny.weights"), dp.load("slim/tiny.cfg", "slim/tiny.weights")
    quick = {"iterations": 6, "workers": 0, "no_tensorboard": True, "preset": "features", "taps": "4:1"}
    gradual = {"prune_to": 0.7, "prune_from": 1, "prune_until": 4, "prune_every": 1.5, "prune_min_channels": 2}
    for name, more in (("data", {"data": "x.data"}), ("bare", {"unlabelled": "images", **gradual})):
        settings = dp.DistillSettings(**quick, **more)
        result = dp.distill(teacher, student, name, settings)
        assert result.figures["features"] > 0
        assert ("hard" in result.figures) == (name == "data")
        assert (result.after.macs < result.before.macs) == (name == "bare")


def test_taps_of_mobilenet_have_five_scales() -> None:
    graph = read_graph(resolve("builtin:mobilenet-yolov3-voc"))
    paper = choose_taps(graph, divide(graph, "mobilenet-yolov3"), "paper")
    assert [graph.net.input.w // graph[layer].output.w for layer in sorted(paper)] == [2, 4, 8, 16, 32]
    assert [paper[layer] for layer in sorted(paper)] == [1e3, 1e3, 1e3, 1e4, 1e4]
