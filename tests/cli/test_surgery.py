"""info, groups, prune, verify and init from end to end: what is printed, and the JSON shapes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from darkprune.cli.main import main
from darkprune.errors import RunnerError
from darkprune.runs.digests import digest_of_file
from darkprune.runs.provenance import write_provenance
from darkprune.runs.record import file_input

ROOT = Path(__file__).parents[2]
TOTALS = {"params": int, "macs": int, "bflops": float, "bytes": int}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "slim"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict[str, Any]:
    """Runs a command with --json; stdout must be one object and nothing else."""
    assert main([*map(str, arguments), "--json"]) == status
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert isinstance(data, dict)
    return data


def has(data: dict[str, Any], **types: object) -> None:
    """Checks keys and the types of their values."""
    for key, kind in types.items():
        assert isinstance(data[key], kind), f"{key} is {data[key]!r}"


def cli(*arguments: object, cwd: Path | None = None, **given: Any) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **given.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "darkprune", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False, **given,
    )  # fmt: skip


# ---- info


def test_info_json(small_pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "info", small_pair.cfg, small_pair.weights)
    has(data, cfg=str, params=int, trainable_params=int, macs=int, bflops=float, weights_bytes=int, layers=list)
    assert data["input"] == [3, 32, 64]
    assert data["cfg"] == small_pair.cfg
    assert [layer["index"] for layer in data["layers"]] == list(range(14))
    assert data["layers"][0] == {
        "index": 0, "kind": "convolutional", "out": [16, 16, 32], "outputs": 8192, "params": 496,
        "macs": 432 * 512, "bflops": pytest.approx(2 * 432 * 512 / 1e9, abs=1e-6),
    }  # fmt: skip
    assert data["weights_bytes"] == 20 + 4 * data["params"] == Path(small_pair.weights).stat().st_size
    assert data["weights"] == {"version": [0, 2, 5], "seen": 0, "bytes": data["weights_bytes"]}
    assert data["trainable_params"] == data["params"] - 2 * (16 + 24 + 16 + 32 + 20)
    assert data["params"] == sum(layer["params"] for layer in data["layers"])
    assert data["macs"] == sum(layer["macs"] for layer in data["layers"])


def test_info_json_without_weights_and_of_flat_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flat.cfg"
    path.write_text("[net]\nwidth=4\nheight=4\nchannels=1\n[conv]\nfilters=3\n[connected]\noutput=5\n[softmax]\n")
    data = run_json(capsys, "info", path)
    assert data["weights"] is None
    assert data["layers"][2]["out"] is None
    assert data["layers"][2]["outputs"] == 5
    assert data["layers"][1]["macs"] == 3 * 16 * 5


def test_info_strict_json(small_pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "strict" not in run_json(capsys, "info", small_pair.cfg)
    assert run_json(capsys, "info", small_pair.cfg, "--strict")["strict"] == []


def test_info_strict_shows_a_section_s_name_in_one_safe_line(
    small_pair: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = f"[\x1b[31m{'x' * 5000}]\n"
    Path(small_pair.cfg).write_text(Path(small_pair.cfg).read_text() + f"[dropout]\n#{odd}{odd}", encoding="utf-8")
    main(["info", small_pair.cfg, "--strict"])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert all(len(line) < 400 for line in (shown.out + shown.err).splitlines())


def test_info_of_yolov4_voc(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "builtin:yolov4-voc"]) == 0
    text = capsys.readouterr().out
    assert "162 layers" in text
    assert "64.11 M stored floats (64,106," in text
    assert "29.8" in text


def test_info_says_where_nan_is(small_pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(small_pair.weights).read_bytes())
    data[20 + 4 * 5 : 24 + 4 * 5] = b"\x00\x00\xc0\x7f"
    Path(small_pair.weights).write_bytes(data)
    warnings = run_json(capsys, "info", small_pair.cfg, small_pair.weights)["warnings"]
    assert warnings == ["layer 0 (convolutional): biases holds NaN or infinite values, first at channel 5"]


# ---- groups


def test_groups_json(small_pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "groups", small_pair.cfg)
    assert {"name", "layers", "channels", "prunable"} <= set(data["groups"][0])
    assert data["coupled"] == [[0, 2]]
    assert data["splits"] == [{"layer": 4, "blocks": 2, "channels": 8}]
    assert [pin["layer"] for pin in data["pinned"]] == [6, 12]
    assert data["pinned"][0]["reasons"] == ["read by [yolo]"]


def test_groups_text(small_pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["groups", small_pair.cfg, "--groups", "0-4,5-13"]) == 0
    text = capsys.readouterr().out
    assert "g2     5-13" in text
    assert "2 layers of 16 channels: 0, 2" in text
    assert "layer 4: 2 blocks of 8" in text
    assert "layers 6, 12: read by [yolo]" in text


# ---- prune


def test_prune_json(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "-o", out)
    for when in ("before", "after"):
        has(data[when], **TOTALS)
    assert data["after"]["bytes"] == (out / "small.weights").stat().st_size < data["before"]["bytes"]
    for group in data["groups"]:
        has(group, name=str, layers=list, ratio=float, threshold=(float, type(None)), channels=int, removed=int)
        assert group["removed"] <= group["channels"]
    names = {"cfg": "small.cfg", "weights": "small.weights", "plan": "plan.json", "report": "report.json"}
    assert data["outputs"] == {kind: str(out / name) for kind, name in names.items()}
    assert sorted(path.name for path in out.iterdir()) == sorted(names.values())


def test_prune_defaults(small_pair: Any, out: Path) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "-o", str(out)]) == 0
    settings = json.loads((out / "plan.json").read_text())["settings"]
    wanted = {"groups": "auto", "allocation": "uniform", "merge": "vote", "compensate": "fold", "constant": "mean",
              "criterion": "bn_gamma", "round_to": 1, "min_channels": 8}  # fmt: skip
    assert {key: settings[key] for key in wanted} == wanted


def test_prune_text(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", str(out)]) == 0
    text, warnings = capsys.readouterr()
    for word in ("group", "threshold", "removed", "parameters", "MACs", "BFLOPs", "weights", "MB"):
        assert word in text
    assert text.splitlines()[-1] == (
        f"next: darkprune verify {small_pair.cfg} {small_pair.weights} {out}/small.cfg {out}/small.weights"
    )
    assert "cuts |γ| up to " in warnings
    assert ", median " in warnings
    assert "was not trained for pruning" in warnings


def test_prune_warns_of_floors(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--ratio", "0.9", "--min-channels", "12", "-o", out]
    warnings = run_json(capsys, "prune", small_pair.cfg, small_pair.weights, *arguments)["warnings"]
    assert any("floor" in warning for warning in warnings)


def test_what_stays_of_the_text(small_pair: Any, out: Path) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", str(out)]) == 0
    before, after = (Path(path).read_text().split("\n") for path in (small_pair.cfg, out / "small.cfg"))
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert changed
    assert all(a.startswith("filters=") and b.startswith("filters=") for a, b in changed)


def test_bytes_that_are_no_utf8_and_windows_lines_stay(small_pair: Any, out: Path) -> None:
    text = Path(small_pair.cfg).read_bytes().replace(b"# a comment", b"# l\xe4uft; 100 %").replace(b"\n", b"\r\n")
    Path(small_pair.cfg).write_bytes(text)
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", str(out)]) == 0
    slim = (out / "small.cfg").read_bytes()
    assert b"# l\xe4uft; 100 %\r\n" in slim
    assert slim.count(b"\r\n") == text.count(b"\r\n")
    assert b"width = 64\r\n" in slim


def test_report_belongs_to_its_files(small_pair: Any, out: Path) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    plan = json.loads((out / "plan.json").read_text())
    for kind in ("cfg", "weights", "plan"):
        assert report["outputs"][kind]["sha256"] == digest_of_file(out / report["outputs"][kind]["name"])
    for kind, path in (("cfg", small_pair.cfg), ("weights", small_pair.weights)):
        assert report["inputs"][kind]["sha256"] == plan[kind]["sha256"] == digest_of_file(Path(path))


def test_a_target_rounds_widths_to_8(
    small_pair: Any, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "--min-channels", "1"]
    run_json(capsys, *pair, "--target", "jetson-nano", "-o", out)
    run_json(capsys, *pair, "--round-to", "8", "-o", tmp_path / "by hand")
    assert (out / "plan.json").read_bytes() == (tmp_path / "by hand" / "plan.json").read_bytes()
    assert json.loads((out / "plan.json").read_text())["settings"]["round_to"] == 8
    for how, multiple in ((["--target", "onnxruntime"], 8), (["--target", "orin", "--round-to", "4"], 4)):
        run_json(capsys, *pair, *how, "-o", out, "--overwrite")
        assert json.loads((out / "plan.json").read_text())["settings"]["round_to"] == multiple

    for how in ([], ["--round-to", "8"]):
        assert main([*pair, *how, "-o", str(out), "--overwrite", "--force"]) == 0
        assert ("no multiples of 8" in capsys.readouterr().out) == (not how)


@pytest.mark.parametrize("compensate", ["fold", "carrier", "none"])
def test_plan_only_then_replay_is_the_same_as_at_once(
    compensate: str, small_pair: Any, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--ratio", "0.4", "--compensate", compensate, "--round-to", "4"]
    pair = ["prune", small_pair.cfg, small_pair.weights]
    at_once = run_json(capsys, *pair, *how, "-o", out)
    planned = run_json(capsys, *pair, *how, "--plan-only", "-o", tmp_path / "my.json")
    assert planned["outputs"] == {"plan": str(tmp_path / "my.json")}
    assert {key: planned[key] for key in ("before", "after", "groups")} == {
        key: at_once[key] for key in ("before", "after", "groups")
    }
    again = tmp_path / "again"
    replayed = run_json(capsys, *pair, "--plan", tmp_path / "my.json", "-o", again)
    assert replayed["groups"] == at_once["groups"]
    for name in ("small.cfg", "small.weights", "plan.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    assert (tmp_path / "my.json").read_bytes() == (out / "plan.json").read_bytes()


def test_ratio_0_changes_nothing(small_pair: Any, out: Path) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0", "-o", str(out)]) == 0
    assert (out / "small.cfg").read_bytes() == Path(small_pair.cfg).read_bytes()
    assert (out / "small.weights").read_bytes() == Path(small_pair.weights).read_bytes()


def test_pruning_a_slim_pair_again(small_pair: Any, out: Path, tmp_path: Path) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.3", "-o", str(out)]) == 0
    again = tmp_path / "again"
    slim = [str(out / "small.cfg"), str(out / "small.weights")]
    assert main(["prune", *slim, "--ratio", "0.3", "-o", str(again)]) == 0
    assert main(["verify", *slim, str(again / "small.cfg"), str(again / "small.weights")]) == 0


def test_builtin_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = tmp_path / "tiny.weights", tmp_path / "slim"
    size = run_json(capsys, "info", "builtin:yolov4-tiny")["weights_bytes"]
    with weights.open("wb") as file:
        file.write(b"\0\0\0\0\2\0\0\0\5\0\0\0")
        file.truncate(size)  # a hole: all is 0
    run_json(capsys, "prune", "builtin:yolov4-tiny", weights, "--ratio", "0.6", "-o", out)
    assert sorted(path.name for path in out.iterdir()) == [
        "plan.json", "report.json", "yolov4-tiny.cfg", "yolov4-tiny.names", "yolov4-tiny.weights",
    ]  # fmt: skip


def test_init_json(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "init", small_pair.cfg, "-o", tmp_path / "new.weights", "--seed", "3")
    assert data["bytes"] == (tmp_path / "new.weights").stat().st_size == Path(small_pair.weights).stat().st_size
    assert data["seed"] == 3


def test_init_is_reproducible(small_pair: Any, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        assert main(["init", small_pair.cfg, "-o", str(path), "--seed", seed]) == 0
    a, b, c = (path.read_bytes() for path in files)
    assert a == b != c


# ---- verify


def test_verify_json(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    data = run_json(capsys, "verify", *pair, out / "small.cfg", out / "small.weights", "--runner", "opencv")
    assert data["ok"] is True
    numeric = data["numeric"]
    assert numeric["ok"] is True
    assert numeric["runner"] == "opencv"
    assert numeric["worst_layer"]["relative"] < 1e-5
    assert {"layer", "absolute", "relative", "border", "interior"} == set(numeric["compensation"][0])
    assert numeric["outputs"] == [6, 12]


def test_verify_static(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    data = run_json(capsys, "verify", *pair, out / "small.cfg", out / "small.weights", "--static")
    assert (data["ok"], data["numeric"]) == (True, None)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [("activation=mish", "activation=leaky", "differs at line"), ("# a comment", "# another", "differs at line")],
)
def test_verify_finds_a_changed_cfg(
    line: str, other: str, message: str, small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    path = out / "small.cfg"
    path.write_text(path.read_text().replace(line, other))
    data = run_json(capsys, "verify", *pair, path, out / "small.weights", status=1)
    assert any(message in problem for problem in data["static"]["problems"])
    assert any("report" in problem for problem in data["static"]["problems"])


def test_verify_finds_changed_weights(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    (out / "report.json").unlink()
    data = bytearray((out / "small.weights").read_bytes())
    data[20 + 4 * 60 : 24 + 4 * 60] = b"\x00\x00\xc0\x40"
    (out / "small.weights").write_bytes(data)
    slim = [out / "small.cfg", out / "small.weights"]
    found = run_json(capsys, "verify", *pair, *slim, "--runner", "opencv", status=1)
    assert found["static"]["problems"] == []
    assert found["numeric"]["ok"] is False
    data[20 + 4 * 60 : 24 + 4 * 60] = b"\x00\x00\xc0\x7f"
    (out / "small.weights").write_bytes(data)
    assert "NaN" in run_json(capsys, "verify", *pair, *slim, status=1)["static"]["problems"][0]


def test_verify_says_infinity_as_null(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    (out / "report.json").unlink()
    data = bytearray((out / "small.weights").read_bytes())
    for place in range(20, len(data) - 4, 400):
        data[place : place + 4] = b"\x00\x00\x7f\x7f"  # 3.4e38: finite, but its products are not
    (out / "small.weights").write_bytes(data)
    slim = [out / "small.cfg", out / "small.weights"]
    found = run_json(capsys, "verify", *pair, *slim, "--runner", "opencv", status=1)
    assert found["numeric"]["worst_layer"]["relative"] is None


def test_verify_without_a_plan(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    (out / "plan.json").rename(out.parent / "kept.json")
    slim = [out / "small.cfg", out / "small.weights"]
    data = run_json(capsys, "verify", *pair, *slim, status=3)  # nothing was run: neither right nor wrong
    assert (data["ok"], data["verdict"]) == (False, "not checked")
    assert "plan" in data["skipped"]
    assert main(["verify", *pair, *map(str, slim)]) == 3
    shown = capsys.readouterr().out
    assert "files: fit each other\nNOT CHECKED: there is no plan.json" in shown
    assert run_json(capsys, "verify", *pair, *slim, "--plan", out.parent / "kept.json")["ok"] is True


def test_verify_a_folder_or_a_pair_alone(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    run_json(capsys, "prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "-o", out)
    data = run_json(capsys, "verify", out, "--runner", "opencv")  # the report names the original
    assert (data["ok"], list(data["results"])) == (True, [out.name])
    assert data["results"][out.name]["verdict"] == "right"
    assert run_json(capsys, "verify", out / "small.cfg", out / "small.weights")["verdict"] == "right"
    Path(small_pair.weights).rename(out.parent / "elsewhere")
    assert run_json(capsys, "verify", out, status=3)["results"][out.name]["verdict"] == "not checked"
    assert main(["verify", str(out / "small.cfg")]) == 2
    assert main(["verify", *["x"] * 3]) == 2


def test_verify_of_trained_weights(small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are meant to differ from the cut: widths and wiring count, and that the network runs."""
    pytest.importorskip("cv2")
    pair = [small_pair.cfg, small_pair.weights]
    run_json(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    trained = out.parent / "trained"
    trained.mkdir()
    (trained / "small.cfg").write_bytes((out / "small.cfg").read_bytes())
    data = bytearray((out / "small.weights").read_bytes())
    data[12:20] = (6400).to_bytes(8, "little")  # images seen
    data[-40:] = bytes(40)
    (trained / "small_final.weights").write_bytes(data)
    slim = [trained / "small.cfg", trained / "small_final.weights"]
    plan = ["--plan", out / "plan.json"]
    found = run_json(capsys, "verify", *pair, *slim, *plan, "--runner", "opencv")
    assert (found["verdict"], found["changed"], found["runner"]) == ("not compared", "trained", "opencv")
    assert main(["verify", *map(str, [*pair, *slim, *plan])]) == 0
    assert "widths and wiring are right; the weights were trained, so that numbers are not" in capsys.readouterr().out
    assert main(["verify", *map(str, [*pair, *slim])]) == 3, "nothing says where it comes from"
    write_provenance(trained, {"cfg": file_input(out / "small.cfg"), "weights": file_input(out / "small.weights")})
    (trained / "log.csv").touch()
    for words in ([*pair, *slim], slim, [trained]):
        capsys.readouterr()
        assert main(["verify", *map(str, words)]) == 0, words
        assert "the weights were trained" in capsys.readouterr().out
    moved = out.parent / "moved"
    moved.mkdir()
    out, trained = out.rename(moved / out.name), trained.rename(moved / trained.name)
    assert main(["verify", str(trained)]) == 0
    capsys.readouterr()
    slim, plan = [trained / "small.cfg", trained / "small_final.weights"], ["--plan", out / "plan.json"]
    text = slim[0].read_text()
    slim[0].write_text(text.replace("activation=mish", "activation=leaky"))
    assert run_json(capsys, "verify", *pair, *slim, *plan, status=1)["verdict"] == "wrong"


def test_verify_of_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    layers = ["convolutional filters=16 size=3 pad=1 batch_normalize=1", "avgpool", "connected output=4", "softmax"]
    text = "[net]\nwidth=16\nheight=16\nchannels=3\n"
    for layer in layers:
        name, *keys = layer.split()
        text += "\n".join([f"[{name}]", *keys, ""])
    (tmp_path / "c.cfg").write_text(text)
    pair = [tmp_path / "c.cfg", tmp_path / "c.weights"]
    run_json(capsys, "init", pair[0], "-o", pair[1], "--vary")
    run_json(capsys, "prune", *pair, "--ratio", "0.3", "-o", tmp_path / "slim")
    found = run_json(capsys, "verify", *pair, tmp_path / "slim" / "c.cfg", tmp_path / "slim" / "c.weights")
    assert found["verdict"] == "right"
    assert set(found["numeric"]["outputs"]) <= {entry["layer"] for entry in found["numeric"]["compensation"]}
    assert main(["verify", str(tmp_path / "slim")]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].split()[0].isdigit()  # a row of the table


def test_verify_names_the_program_that_refuses(
    small_pair: Any, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    from darkprune.runners import base

    def load(graph: Any, weights: Path, *, taps: bool = True, once: bool = False) -> base.LoadedNetwork:
        raise RunnerError("refusing 1.0 cannot read it")

    monkeypatch.setitem(base.RUNNERS, "refusing", "refusing_runner")
    monkeypatch.setitem(sys.modules, "refusing_runner", SimpleNamespace(load=load))
    monkeypatch.setitem(base.load_with_any.__kwdefaults__, "order", ("refusing", "opencv"))
    run_json(capsys, "prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "-o", out)
    assert main(["verify", str(out)]) == 0
    assert "warning: not taken as the referee: refusing 1.0 cannot read it" in capsys.readouterr().err


def test_verify_keeps_its_status_when_the_pipe_closes(small_pair: Any, out: Path) -> None:
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.4", "-o", str(out)]) == 0
    (out / "report.json").write_text("{}")
    command = (
        f"{sys.executable} -m darkprune verify {small_pair.cfg} {small_pair.weights} {out}/small.cfg "
        f"{out}/small.weights --json --static | true"
    )
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 1


# ---- as a user runs it


@pytest.mark.parametrize("command", ["info", "groups", "prune", "prune by plan", "verify --static", "init"])
def test_surgery_never_imports_the_heavy(command: str, small_pair: Any, out: Path) -> None:
    """Not even while it runs: a plain `import` at the top is what tests/test_architecture.py sees."""
    pair, slim = [small_pair.cfg, small_pair.weights], [str(out / "small.cfg"), str(out / "small.weights")]
    cut = ["prune", *pair, "--ratio", "0.4", "--compensate", "carrier", "-o", str(out)]
    lines = {
        "info": [["info", *pair, "--strict"]],
        "groups": [["groups", pair[0]]],
        "prune": [cut],
        "prune by plan": [cut, ["prune", *pair, "--plan", str(out / "plan.json"), "-o", f"{out}2"]],
        "verify --static": [cut, ["verify", *pair, *slim, "--static"]],
        "init": [["init", pair[0], "-o", f"{out}.weights"]],
    }[command]
    code = (
        "import sys\nfrom darkprune.cli.main import main\n"
        f"codes = [main(line) for line in {lines!r}]\n"
        "heavy = ('torch', 'cv2', 'onnx', 'onnxruntime', 'tensorrt', 'matplotlib')\n"
        "print('loaded:', codes, [name for name in heavy if name in sys.modules])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.splitlines()[-1] == f"loaded: {[0] * len(lines)} []"


def test_reader_of_a_pipe_that_goes_away(small_pair: Any) -> None:
    command = f"{sys.executable} -m darkprune info builtin:yolov4 --json | head -n 1"
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout == "{\n"
    assert found.stderr == ""
    assert found.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_that_is_full(small_pair: Any) -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "darkprune", "info", small_pair.cfg],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr == "darkprune: error: standard output: No space left on device\n"


def test_terminal_without_greek(small_pair: Any, out: Path) -> None:
    found = cli("prune", "--help", env={"PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0
    found = cli(
        "prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", out, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (found.returncode, "Traceback" in found.stderr) == (0, False)


def test_from_an_empty_directory_with_relative_paths_and_blanks(small_pair: Any, tmp_path: Path) -> None:
    here = tmp_path / "an empty folder"
    here.mkdir()
    (here / "my net.cfg").write_bytes(Path(small_pair.cfg).read_bytes())
    (here / "my net.weights").write_bytes(Path(small_pair.weights).read_bytes())
    found = cli("prune", "my net.cfg", "my net.weights", "--ratio", "0.4", "-o", "out put", cwd=here)
    assert found.returncode == 0, found.stderr
    following = found.stdout.splitlines()[-1].removeprefix("next: darkprune ")
    assert following == "verify 'my net.cfg' 'my net.weights' 'out put/my net.cfg' 'out put/my net.weights'"
    assert cli(*shlex.split(following), "--static", cwd=here).returncode == 0
