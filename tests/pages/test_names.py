"""Names of files, classes and runs are shown as they are, whatever is in them."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.pages import plots
from darkprune.training.records.curves import curves_figure, render_figure
from darkprune.training.records.log import Curve
from tests.conftest import SmallPair
from tests.pages.page import Page

drawn = pytest.mark.skipif(not plots.available(), reason="matplotlib is not installed")
#: formulas, right and wrong, letters that fonts lack, bytes that are no UTF-8, what would begin another line
ODD = (r"$\frac$", "$x$", "100 $ or 200 $", "日本語", "caf\udce9", "a\nb", "_^{}", "\\")


@drawn
@pytest.mark.parametrize("name", ODD)
def test_diagrams(name: str) -> None:
    times = {name: [1.0, 2.0], "other": [1.0, 1.5]}
    figures = [
        plots.latency(times),
        plots.classes([plots.ClassPrecision(name, 0.2, 0.4)]),
        plots.tradeoff([(name, 10, 0.2), (f"{name}, {name}", 5, 0.1)], (10, 0.2)),
        plots.precision_recall({name: ({0: np.linspace(1, 0, 101)}, (0.5, 0.5))}, [name]),
        plots.confusion({name: np.eye(2, dtype=np.int64)}, [name, "nothing"]),
        plots.gamma_now([name], [np.linspace(0, 1, 9, dtype=np.float32)], [0.5]),
        curves_figure({name: Curve([1, 2], [1.0, 2.0]), "loss": Curve([1, 2], [1000.0, 1.0])}, [name, "loss"]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures:
            assert render_figure(figure, "png").startswith(b"\x89PNG")
            assert b"<svg" in render_figure(figure, "svg")


@drawn
def test_a_dollar_sign_stays_a_dollar_sign() -> None:
    figure = plots.latency({"$x$": [1.0, 2.0], "x": [1.0]})
    render_figure(figure, "svg")
    labels = figure.axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == ["x", "$x$"]
    assert not any(text.get_parse_math() for text in labels)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_that_are_not_utf8(small_pair: SmallPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/r\xe9sum\xe9 $x$"))
    images = odd / os.fsdecode(b"caf\xe9")
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    (images / os.fsdecode(b"\xb5.png")).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (images / os.fsdecode(b"\xb5.txt")).write_text("0 0.5 0.5 0.4 0.4\n")
    (odd / "list.txt").write_bytes(bytes(images) + b"/\xb5.png\n")
    (odd / "obj.names").write_bytes(b"caf\xe9\n$x$\n")
    (odd / "obj.data").write_bytes(b"classes=2\nvalid=%s/list.txt\nnames=%s/obj.names\n" % (bytes(odd), bytes(odd)))
    slim = odd / "slim"
    assert main(["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", str(slim)]) == 0
    assert main(["report", str(slim), "--data", str(odd / "obj.data"), "--runs", "1"]) == 0
    page = Page.of(slim / "report.html")
    assert "labels: 1 object" in page.text
    assert "\ufffd.png" in page.text
    assert main(["info", small_pair.cfg, "--html", str(odd / "n.html")]) == 0
    assert Page.of(odd / "n.html").text
    assert "Traceback" not in capsys.readouterr().err
