"""`prune`, `Surgery` and `verify` from Python: what is written, and when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import darkprune as dp
from darkprune.api.pair import on_disk
from darkprune.runs.digests import digest_of_file

from .networks import cfg, gammas

CONV = "convolutional size=3 pad=1 batch_normalize=1 activation=leaky filters={}"
TEXT = cfg(CONV.format(16), CONV.format(12), "convolutional size=1 activation=linear filters=4")


@pytest.fixture
def pair(tmp_path: Path) -> dp.Pair:
    (tmp_path / "net.cfg").write_text(TEXT)
    (tmp_path / "net.weights").write_bytes(gammas(TEXT))
    return dp.load(tmp_path / "net.cfg", tmp_path / "net.weights")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_nothing_is_written_before_save(pair: dp.Pair, tmp_path: Path) -> None:
    before = files(tmp_path)
    slim = dp.prune(pair, dp.PruneSettings(ratio=0.5, min_channels=2))
    assert files(tmp_path) == before
    assert slim.result is None
    assert (slim.before.params, slim.after.params) == (pair.graph.params, slim.graph.params)
    assert slim.after.params < slim.before.params
    result = slim.save(tmp_path / "slim")
    assert files(tmp_path / "slim") == ["net.cfg", "net.weights", "plan.json", "report.json"]
    assert result.outputs["weights"].path == tmp_path / "slim" / "net.weights"
    assert result.outputs["weights"].sha256 == digest_of_file(tmp_path / "slim" / "net.weights")
    assert json.loads((tmp_path / "slim" / "plan.json").read_text()) == slim.plan.to_json()
    report = json.loads((tmp_path / "slim" / "report.json").read_text())
    assert report == result.report()
    assert pair.weights is not None
    for kind, path in (("cfg", pair.cfg), ("weights", pair.weights)):
        assert report["inputs"][kind] == {"name": path.name, "path": str(path), "sha256": digest_of_file(path)}
    with pytest.raises(dp.DarkpruneError, match="not empty"):
        slim.save(tmp_path / "slim")
    slim.save(tmp_path / "slim", overwrite=True)
    slim.close()


def test_output_writes_the_same_as_save(pair: dp.Pair, tmp_path: Path) -> None:
    settings = dp.PruneSettings(ratio=0.5, min_channels=2, compensate="carrier")
    at_once = dp.prune(pair, settings, output=tmp_path / "a")
    dp.prune(pair, settings).save(tmp_path / "b")
    assert at_once.result is not None
    assert at_once.result.outputs["plan"].path == tmp_path / "a" / "plan.json"
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_surgery_lends_files(pair: dp.Pair) -> None:
    slim = dp.prune(pair, dp.PruneSettings(ratio=0.5, min_channels=2))
    with on_disk(slim) as lent:
        assert lent.graph.params == slim.graph.params
        with lent.open() as weights:
            assert weights.file.size == slim.after.bytes
    assert not lent.cfg.exists()
    assert not lent.weights_file.exists()
    with on_disk(pair) as same:
        assert same is pair


def test_a_plan_is_replayed(pair: dp.Pair, tmp_path: Path) -> None:
    first = dp.prune(pair, dp.PruneSettings(ratio=0.5, min_channels=2, plan_only=True), output=tmp_path / "plan.json")
    again = dp.prune(pair, dp.PruneSettings(plan=str(tmp_path / "plan.json")))
    assert again.plan == first.plan
    assert (again.cut.keep == first.cut.keep).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "say how much to remove"),
        ({"ratio": 0.1, "target_macs": 0.5}, "say how much to remove"),
        ({"plan": "p.json", "merge": "any"}, "--plan holds the whole decision"),
        ({"plan": "p.json", "ratio": 0.4}, "--plan holds the whole decision"),
        ({"ratio": 0.4, "criterion": "surgeon"}, "--criterion surgeon looks at images"),
        ({"ratio": 0.4, "recover": "lsq"}, "--recover lsq looks at images"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(dp.DarkpruneError, match=message):
        dp.PruneSettings(**settings)  # type: ignore[arg-type]


def test_a_fraction_may_be_a_number(pair: dp.Pair) -> None:
    slim = dp.prune(pair, dp.PruneSettings(target_params=0.7, min_channels=1))
    assert abs(slim.after.params / slim.before.params - 0.7) < 0.01


def test_verify(pair: dp.Pair, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    settings = dp.VerifySettings(runner="opencv")
    slim = dp.prune(pair, dp.PruneSettings(ratio=0.5, min_channels=2))
    unsaved = dp.verify(slim, settings=settings)
    assert unsaved.ok
    slim.save(tmp_path / "slim")
    saved = dp.load(tmp_path / "slim" / "net.cfg", tmp_path / "slim" / "net.weights")
    assert dp.verify(saved, pair, settings).to_json() == unsaved.to_json()
    assert dp.verify(saved, pair, dp.VerifySettings(static=True)).numbers is None
    weights = bytearray(saved.weights_file.read_bytes())
    weights[-4:] = b"\x00\x00\xc0\x40"
    saved.weights_file.write_bytes(weights)
    found = dp.verify(saved, pair, settings)
    assert not found.ok
    assert "net.weights: is not the file that the report beside it describes" in found.problems[0]
