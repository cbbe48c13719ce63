"""Every bad input that was thought of: one line that says what, where and what to do; exit 1 (2 for wrong use)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darkprune.cli.main import main

ROOT = Path(__file__).parents[2]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 1) -> str:
    """Runs a command that must fail; returns its one line."""
    assert main([str(argument) for argument in arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("darkprune: error: ")
    return lines[0].removeprefix("darkprune: error: ")


def misused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs a command that is used wrongly; returns its one line."""
    return fails(capsys, *arguments, status=2)


# ---- cfg

NET = "[net]\nwidth=8\nheight=8\nchannels=3\n"
CFGS: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "has no [section]; this is not a Darknet .cfg"),
    "blank lines": ("\n\n# nothing\n", "has no [section]"),
    "byte order mark": (b"\xef\xbb\xbf" + NET.encode(), ":1: starts with a UTF-8 byte order mark"),
    "utf-16": ("\ufeff" + NET, "is UTF-16 text; save it as UTF-8"),
    "binary": (bytes(range(256)) * 4, "holds binary data"),
    "weights": (b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(400), "holds binary data"),
    "key before a section": ("width=8\n" + NET, ":1: text before any [section]: 'width=8'"),
    "no net": ("[convolutional]\nfilters=3\n", ":1: the first section is [convolutional]"),
    "net only": (NET, "has no layer after [net]"),
    "unknown section": (NET + "[convolutionl]\n", ":5: unknown section [convolutionl]; did you mean [convolutional]?"),
    "route to itself": (NET + "[conv]\n[route]\nlayers=1\n", ":6: layer 1 (route) reads itself"),
    "route past the end": (NET + "[conv]\n[route]\nlayers=7\n", ":6: layer 1 (route) refers to layer 7"),
    "route before the start": (NET + "[conv]\n[route]\nlayers=-9\n", "layer 1 (route) refers to layer -8"),
    "route without layers": (NET + "[conv]\n[route]\n", ":6: [route] has no layers="),
    "zero filters": (NET + "[conv]\nfilters=0\n", ":6: [conv] filters=0 is out of range"),
    "negative filters": (NET + "[conv]\nfilters=-4\n", ":6: [conv] filters=-4 is out of range"),
    "absurd filters": (NET + "[conv]\nfilters=2147483647\n", "more than 2^31 - 1"),
    "filters beyond 32 bits": (NET + "[conv]\nfilters=99999999999999999999\n", "more than 2^31 - 1"),
    "zero size": (NET + "[conv]\nsize=0\n", ":6: [conv] size=0 is out of range"),
    "zero stride": (NET + "[conv]\nstride=0\n", ":6: [conv] stride=0 is out of range"),
    "window too large": (NET + "[conv]\nsize=11\n[conv]\nsize=9\n", "empty map"),
    "zero width": (NET.replace("width=8", "width=0") + "[conv]\n", ":1: [net] gives neither"),
    "negative width": (NET.replace("width=8", "width=-8") + "[conv]\n", ":2: [net] width=-8 is out of range"),
    "absurd width": (NET.replace("width=8", "width=2147483647") + "[conv]\n", ":2: [net] width=2147483647"),
    "wrong head": (NET + "[conv]\nfilters=9\n[yolo]\nclasses=2\nnum=2\n", "set its filters=14"),
}


@pytest.mark.parametrize("command", ["info", "groups", "init", "prune", "verify"])
@pytest.mark.parametrize("case", CFGS)
def test_bad_cfg(case: str, command: str, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = CFGS[case]
    path = tmp_path / "bad.cfg"
    encoding = "utf-16-le" if case == "utf-16" else "utf-8"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    out = tmp_path / "out"
    rest = {
        "info": [],
        "groups": [],
        "init": ["-o", out],
        "prune": [small_pair.weights, "--ratio", "0.5", "-o", out],
        "verify": [small_pair.weights, small_pair.cfg, small_pair.weights],
    }[command]
    line = fails(capsys, command, path, *rest)
    assert line.startswith(str(path))
    assert message in line
    assert not out.exists()


def test_missing_cfg_and_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file; expected a Darknet .cfg" in fails(capsys, "info", tmp_path / "none.cfg")
    assert "is a directory" in fails(capsys, "info", tmp_path)
    assert "File name too long" in fails(capsys, "info", "a" * 300)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("command", ["info", "groups"])
def test_absurd_sizes_allocate_nothing(command: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.cfg"
    path.write_text("[net]\nwidth=1\nheight=1\nchannels=1\n[convolutional]\nfilters=2147483647\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    found = subprocess.run(
        [sys.executable, "-m", "darkprune", command, str(path)],
        cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60,
        check=False, preexec_fn=limit,
    )  # fmt: skip
    assert "Traceback" not in found.stderr
    assert "out of memory" not in found.stderr
    assert found.returncode in (0, 1)


# ---- weights


def spoiled(path: str, how: str) -> bytes:
    data = Path(path).read_bytes()
    return {
        "empty": b"",
        "shorter than a header": data[:10],
        "header only": data[:20],
        "cut off": data[: len(data) // 2],
        "cut off in a float": data[:-2],
        "one float short": data[:-4],
        "one float long": data + b"\0\0\0\0",
        "twice": data + data,
        "binary junk": bytes(range(256)) * (len(data) // 256),
        "text": b"[net]\nwidth=8\n" * 100,
    }[how]


WEIGHTS = {
    "empty": "only 0 bytes long, shorter than a header",
    "shorter than a header": "only 10 bytes long, shorter than a header",
    "header only": "layer 0 (convolutional, line 9) needs 64 bytes of biases, 0 are left",
    "cut off": " are left; ",
    "cut off in a float": "of weights, ",
    "one float short": "layer 12 (convolutional, line 80) needs 1120 bytes of weights, 1116 are left",
    "one float long": "4 bytes are left after the last layer (13)",
    "twice": "bytes are left after the last layer (13)",
    "binary junk": "this is no Darknet .weights file",
    "text": "is a .cfg file; give the cfg first",
}


@pytest.mark.parametrize("command", ["info", "prune", "verify"])
@pytest.mark.parametrize("how", WEIGHTS)
def test_bad_weights(
    how: str, command: str, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.weights"
    path.write_bytes(spoiled(small_pair.weights, how))
    out = tmp_path / "out"
    line = {
        "info": lambda: fails(capsys, "info", small_pair.cfg, path),
        "prune": lambda: fails(capsys, "prune", small_pair.cfg, path, "--ratio", "0.5", "-o", out),
        "verify": lambda: fails(capsys, "verify", small_pair.cfg, path, small_pair.cfg, small_pair.weights),
    }[command]()
    assert line.startswith(str(path))
    assert WEIGHTS[how] in line
    assert not out.exists()


def test_missing_weights_and_folder(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file; give the path" in fails(capsys, "info", small_pair.cfg, tmp_path / "none.weights")
    assert "is a directory" in fails(capsys, "info", small_pair.cfg, tmp_path)


def test_weights_of_another_class_count(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(small_pair.cfg).read_text().replace("classes=2", "classes=7").replace("filters=14", "filters=24")
    (tmp_path / "seven.cfg").write_text(text)
    assert "it would fit classes=2" in fails(capsys, "info", tmp_path / "seven.cfg", small_pair.weights)


def test_weights_for_pretraining(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json_of(capsys, "info", small_pair.cfg)
    upto = 20 + 4 * sum(layer["params"] for layer in data["layers"][:5])
    (tmp_path / "small.conv.5").write_bytes(Path(small_pair.weights).read_bytes()[:upto])
    assert "small.conv.5" in fails(capsys, "info", small_pair.cfg, tmp_path / "small.conv.5")


def test_nan_in_a_score(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(small_pair.weights).read_bytes())
    data[20 + 4 * 19 : 24 + 4 * 19] = b"\x00\x00\xc0\x7f"  # γ of channel 3
    path = tmp_path / "nan.weights"
    path.write_bytes(data)
    line = fails(capsys, "prune", small_pair.cfg, path, "--ratio", "0.5", "-o", tmp_path / "out")
    assert "layer 0 (convolutional): channel 3 has a weight that is NaN or infinite" in line
    assert not (tmp_path / "out").exists()


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---- wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say how much to remove with one of --ratio 0.4"),
        (["--ratio", "0.4", "--ratios", "0.1"], "say how much to remove with one of"),
        (["--ratio", "0.4", "--preset", "yolov3"], "say how much to remove with one of"),
        (["--ratio", "1"], "ratio 1 is outside [0, 1)"),
        (["--ratio", "1.5"], "ratio 1.5 is outside [0, 1)"),
        (["--ratio=-0.1"], "ratio -0.1 is outside [0, 1)"),
        (["--ratio", "nan"], "ratio nan is outside [0, 1)"),
        (["--ratios", "0.1,0.2"], "2 ratios for "),
        (["--ratios", "0.1,x"], "--ratios 0.1,x: give numbers separated by commas"),
        (["--groups", "0-13", "--ratios", "1.0"], "ratio 1 is outside [0, 1)"),
        (["--ratios", "0.1", "--allocation", "global"], "--allocation global does not go with it"),
        (["--ratio", "0.1", "--allocation", "explicit"], "--allocation explicit needs --ratios"),
        (["--ratio", "0.1", "--groups", "0-5,3-9"], "0-5 and 3-9 overlap"),
        (["--ratio", "0.1", "--groups", "0-99"], "0-99 does not lie within layers 0-13"),
        (["--ratio", "0.1", "--groups", "five"], "'five' is no range"),
        (["--ratio", "0.1", "--exclude", "14"], "--exclude 14: the network has layers 0 to 13"),
        (["--ratio", "0.1", "--exclude=-1"], "--exclude -1: the network has layers 0 to 13"),
        (["--ratio", "0.1", "--exclude", "a,b"], "--exclude a,b: give whole numbers"),
        (["--ratio", "0.1", "--round-to", "0"], "must be at least 1"),
        (["--ratio", "0.1", "--min-channels", "0"], "must be at least 1"),
        (["--preset", "yolov3", "--allocation", "uniform"], "--preset yolov3 decides that itself"),
        (["--preset", "chu2022", "--round-to", "8"], "leave out --round-to"),
        (["--plan", "p.json", "--ratio", "0.4"], "--plan holds the whole decision"),
        (["--plan", "p.json", "--merge", "any"], "--plan holds the whole decision"),
    ],
)
def test_wrong_use_of_prune(
    arguments: list[str], message: str, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [small_pair.cfg, small_pair.weights]
    assert message in fails(capsys, "prune", *pair, *arguments, "-o", tmp_path / "out", status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given"]


def test_what_argparse_refuses(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["prune", small_pair.cfg, small_pair.weights]
    assert "-o/--output" in misused(capsys, *pair, "--ratio", "0.4")
    assert "--ratio x: give a number" in fails(capsys, *pair, "--ratio", "x", "-o", tmp_path / "out", status=2)
    cut = (*pair, "--ratio", "0.4", "-o", "out")
    assert "--merge half: choose from vote, any, all, mean, max" in misused(capsys, *cut, "--merge", "half")
    assert "--merge vot: did you mean vote?" in misused(capsys, *cut, "--merge", "vot")
    assert "there is no command prun; did you mean prune?" in misused(capsys, "prun")
    assert "at most 10000 are read" in misused(capsys, *cut, *["--ratio", "0.5"] * 50_000)
    assert "required: CFG (darkprune info --help)" in misused(capsys, "info")
    assert "there is no --rato; did you mean --ratio?" in misused(capsys, *pair, "--rato", "0.4")
    assert "prune: third is one argument too many" in misused(capsys, *pair, "third", "-o", "out")
    assert main([]) == 2


def test_presets_of_other_networks(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for preset in ("chu2022", "table1-model1", "yolov3"):
        line = fails(capsys, "prune", small_pair.cfg, small_pair.weights, "--preset", preset, "-o", tmp_path / "out")
        assert "layers, this one has 14" in line


def test_seed_below_zero(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--seed -1" in fails(capsys, "init", small_pair.cfg, "-o", tmp_path / "w", "--seed", "-1", status=2)
    assert not (tmp_path / "w").exists()


def test_no_such_builtin(capsys: pytest.CaptureFixture[str]) -> None:
    assert "brings no such .cfg; it brings " in fails(capsys, "info", "builtin:yolov9")
    assert "brings no such .cfg" in fails(capsys, "info", "builtin:../setup")


# ---- plans


def test_plan_of_another_network(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["prune", small_pair.cfg, small_pair.weights]
    plan = tmp_path / "plan.json"
    json_of(capsys, *pair, "--ratio", "0.4", "--plan-only", "-o", plan)
    other = tmp_path / "other.weights"
    assert main(["init", small_pair.cfg, "-o", str(other)]) == 0
    capsys.readouterr()
    line = fails(capsys, "prune", small_pair.cfg, other, "--plan", plan, "-o", tmp_path / "out")
    assert f"{other}: the plan was made for another weights file (small.weights" in line
    text = Path(small_pair.cfg).read_text() + "\n# touched\n"
    (tmp_path / "touched.cfg").write_text(text)
    line = fails(capsys, "prune", tmp_path / "touched.cfg", small_pair.weights, "--plan", plan, "-o", tmp_path / "out")
    assert "the plan was made for another cfg file" in line
    assert "no such file" in fails(capsys, *pair, "--plan", tmp_path / "none.json", "-o", tmp_path / "out")
    assert "is not JSON" in fails(capsys, *pair, "--plan", small_pair.cfg, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runner_and_images_that_are_none(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    pair = [small_pair.cfg, small_pair.weights]
    out = tmp_path / "out"
    json_of(capsys, "prune", *pair, "--ratio", "0.4", "-o", out)
    verify = ["verify", *pair, out / "small.cfg", out / "small.weights"]
    assert "no such file" in fails(capsys, *verify, "--image", tmp_path / "none.jpg")
    assert "is not an image" in fails(capsys, *verify, "--image", small_pair.cfg)
    assert "no such file" in fails(capsys, *verify, "--plan", tmp_path / "none.json")
    assert "--runner abacus: choose from opencv" in misused(capsys, *verify, "--runner", "abacus")


def test_verify_of_another_original(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [small_pair.cfg, small_pair.weights]
    slim = [tmp_path / "out" / "small.cfg", tmp_path / "out" / "small.weights"]
    json_of(capsys, "prune", *pair, "--ratio", "0.4", "-o", tmp_path / "out")
    assert "the plan was made for another cfg file" in fails(capsys, "verify", *slim, *slim)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for arguments in (["--debug", "info"], ["info", "--debug"]):
        found = subprocess.run(
            [sys.executable, "-m", "darkprune", *arguments, str(tmp_path / "none.cfg")],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert found.returncode == 1
        assert "Traceback" in found.stderr
        assert "CfgError" in found.stderr
