"""Where results go: what is refused, what survives, and that nothing is ever half-written."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from darkprune.cli.main import main
from darkprune.darknet import leftovers, output
from darkprune.darknet.leftovers import held
from darkprune.darknet.output import atomic_file, checked_file, result_folder
from darkprune.errors import OutputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def prune(small_pair: Any) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        return main(["prune", small_pair.cfg, small_pair.weights, *map(str, arguments)])

    return run


def refusal(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden files too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


# ---- what is refused


def test_earlier_result(prune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert prune("--ratio", 0.3, "-o", out) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert "exists and is not empty; give --overwrite" in refusal(capsys, prune("--ratio", 0.5, "-o", out))
    assert tree(tmp_path) == before
    assert prune("--ratio", 0.5, "-o", out, "--overwrite") == 0
    assert tree(tmp_path)["out/small.weights"] != before["out/small.weights"]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_folder_that_holds_an_input(
    overwrite: list[str], prune: Any, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    assert "holds the input small.cfg" in refusal(capsys, prune("--ratio", 0.3, "-o", small_pair.folder, *overwrite))
    assert "holds the input" in refusal(capsys, prune("--ratio", 0.3, "-o", tmp_path, *overwrite))
    (tmp_path / "link").symlink_to(small_pair.folder)
    assert "is not a folder" in refusal(capsys, prune("--ratio", 0.3, "-o", tmp_path / "link", *overwrite))
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before


def test_folder_that_holds_the_plan(prune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--ratio", 0.3, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    again = prune("--plan", tmp_path / "out" / "plan.json", "-o", tmp_path / "out", "--overwrite")
    assert "holds the input plan.json" in refusal(capsys, again)


def test_inputs_through_links_are_seen(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.cfg").symlink_to(small_pair.cfg)
    (links / "a.weights").symlink_to(small_pair.weights)
    pair = ["prune", str(links / "a.cfg"), str(links / "a.weights"), "--ratio", "0.3"]
    assert "holds the input" in refusal(capsys, main([*pair, "-o", str(small_pair.folder), "--overwrite"]))
    assert main([*pair, "-o", str(tmp_path / "out")]) == 0


def test_file_in_the_way(prune: Any, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert "exists and is not a folder" in refusal(capsys, prune("--ratio", 0.3, "-o", tmp_path / "out", "--overwrite"))
    assert "is not a folder" in refusal(capsys, prune("--ratio", 0.3, "-o", tmp_path / "out" / "deeper"))
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_current_folder(
    overwrite: list[str],
    prune: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A shell that stands in a folder would be left in the one that was replaced."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is or holds the current folder" in refusal(capsys, prune("--ratio", 0.3, "-o", ".", *overwrite))
    assert prune("--ratio", 0.3, "-o", "slim", *overwrite) == 0
    assert (tmp_path / "here" / "slim" / "small.cfg").exists()


def test_places_that_cannot_be_written(prune: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be" in refusal(capsys, prune("--ratio", 0.3, "-o", "/proc/nowhere/out"))
    assert "cannot be" in refusal(capsys, prune("--ratio", 0.3, "-o", "/dev/null/out"))
    assert "File name too long" in refusal(capsys, prune("--ratio", 0.3, "-o", "/tmp/" + "a" * 300))
    assert "File name too long" in refusal(capsys, prune("--ratio", 0.3, "--plan-only", "-o", "a" * 300 + ".json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(prune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "no permission in" in refusal(capsys, prune("--ratio", 0.3, "-o", tmp_path / "locked" / "out"))


def test_no_permission_is_said_before_any_work(
    prune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written (no permission in" in refusal(capsys, prune("--ratio", 0.3, "-o", tmp_path / "out"))


def test_plan_file_in_the_way(prune: Any, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    assert prune("--ratio", 0.3, "--plan-only", "-o", plan) == 0
    before = plan.read_bytes()
    capsys.readouterr()
    assert "give --overwrite" in refusal(capsys, prune("--ratio", 0.5, "--plan-only", "-o", plan))
    assert plan.read_bytes() == before
    assert prune("--ratio", 0.5, "--plan-only", "-o", plan, "--overwrite") == 0
    assert plan.read_bytes() != before
    again = ["--plan", plan, "--plan-only", "-o", plan, "--overwrite"]
    capsys.readouterr()
    assert "is an input" in refusal(capsys, prune(*again))


def test_init_never_takes_an_input(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is an input" in refusal(capsys, main(["init", small_pair.cfg, "-o", small_pair.cfg, "--overwrite"]))
    assert "exists; give --overwrite" in refusal(capsys, main(["init", small_pair.cfg, "-o", small_pair.weights]))
    assert "is a folder" in refusal(capsys, main(["init", small_pair.cfg, "-o", str(tmp_path)]))


# ---- what survives


def test_overwriting_keeps_what_is_not_ours(prune: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prune("--ratio", 0.3, "-o", out) == 0
    (out / "notes.txt").write_text("mine")
    (out / "old.weights").write_bytes(b"mine too")
    (out / "runs" / "1").mkdir(parents=True)
    (out / "runs" / "1" / "log").write_text("a log")
    (out / "link").symlink_to("notes.txt")
    (out / "broken").symlink_to("nowhere")
    report = (out / "report.json").read_bytes()
    assert prune("--ratio", 0.5, "-o", out, "--overwrite") == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "old.weights").read_bytes() == b"mine too"
    assert (out / "runs" / "1" / "log").read_text() == "a log"
    assert os.readlink(out / "link") == "notes.txt"
    assert os.readlink(out / "broken") == "nowhere"
    assert (out / "report.json").read_bytes() != report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "out"]


def test_empty_folder_is_taken(prune: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert prune("--ratio", 0.3, "-o", tmp_path / "out") == 0
    assert prune("--ratio", 0.3, "-o", tmp_path / "new" / "folders" / "out") == 0


def test_modes_follow_the_umask(prune: Any, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        assert prune("--ratio", 0.3, "-o", tmp_path / "out") == 0
        assert prune("--ratio", 0.3, "--plan-only", "-o", tmp_path / "plan.json") == 0
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o640


def test_everything_is_synchronised_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(Path(f"/proc/self/fd/{number}").resolve().name))
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        done.append("rename")
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with result_folder(tmp_path / "out", []) as folder:
        (folder / "a").write_bytes(b"1")
        (folder / "b").write_bytes(b"2")
    where = done.index("rename")
    assert {"a", "b"} <= set(done[:where])
    assert any(name.startswith(".out.partial-") for name in done[:where])
    assert done[where + 1 :] == [tmp_path.name]


def test_the_file_that_names_others_takes_its_place_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "replace", lambda source, target: done.append(Path(target).name))
    with checked_file(tmp_path / "m.onnx") as path:
        for name in ("a", "m.onnx", "z.data"):
            (path.parent / name).write_bytes(b"1")
    assert sorted(done[:-1]) == ["a", "z.data"]
    assert done[-1] == "m.onnx"


# ---- failures on the way


@contextmanager
def full_after(limit: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that is full after some bytes."""
    written = 0
    original = io.FileIO.write

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal written
            written += len(data)
            if written > limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(self, data)

    true_open = Path.open

    def fake_open(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return Full(self, "w") if mode == "wb" else true_open(self, mode, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fake_open)
        yield


@pytest.mark.parametrize("limit", [0, 100, 20_000])
def test_full_disk(
    limit: int, prune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before = tree(tmp_path)
    with full_after(limit, monkeypatch):
        assert "the disk is full; nothing was left behind" in refusal(capsys, prune("--ratio", 0.3, "-o", out))
    assert tree(tmp_path) == before
    assert prune("--ratio", 0.3, "-o", out) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    with full_after(limit, monkeypatch):
        assert "the disk is full" in refusal(capsys, prune("--ratio", 0.5, "-o", out, "--overwrite"))
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_full_tmpfs(prune: Any, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", mount], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert "the disk is full; nothing was left behind" in refusal(
            capsys, prune("--ratio", 0.1, "-o", mount / "out")
        )
        assert list(mount.iterdir()) == []
        assert "the disk is full" in refusal(capsys, main(["init", small_pair.cfg, "-o", str(mount / "w")]))
        assert list(mount.iterdir()) == []
        assert "mount point" in refusal(capsys, prune("--ratio", 0.9, "-o", mount))
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, RuntimeError, OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize("earlier", [True, False])
def test_failure_while_writing(exception: Any, earlier: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if earlier:
        out.mkdir()
        (out / "result").write_text("old")
    before = tree(tmp_path)

    def fill_folder() -> None:
        with result_folder(out, [], overwrite=True) as folder:
            (folder / "result").write_text("ne")
            raise exception

    def fill_file() -> None:
        with atomic_file(tmp_path / "out.json") as file:
            file.write(b"{")
            raise exception

    for fill in (fill_folder, fill_file):
        with pytest.raises(OutputError if isinstance(exception, OSError) else exception):
            fill()
        assert tree(tmp_path) == before


@pytest.mark.parametrize("swap", ["exchange", "rename"])
def test_replacing_at_one_stroke_and_without(swap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if swap == "rename":  # a system that cannot exchange
        import ctypes

        monkeypatch.setattr(ctypes, "CDLL", lambda *rest, **more: object())
    out = tmp_path / "out"
    out.mkdir()
    (out / "result").write_text("old")
    (out / "mine").write_text("mine")
    with result_folder(out, [], overwrite=True) as folder:
        (folder / "result").write_text("new")
    assert tree(tmp_path) == {"out": b"", "out/result": b"new", "out/mine": b"mine"}


def test_failed_exchange_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda *rest, **more: object())
    out = tmp_path / "out"
    out.mkdir()
    (out / "result").write_text("old")
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        if ".partial-" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        original(source, target)

    monkeypatch.setattr(output.os, "rename", rename)
    with pytest.raises(OutputError, match="Input/output error"), result_folder(out, [], overwrite=True) as folder:
        (folder / "result").write_text("new")
    assert tree(tmp_path) == {"out": b"", "out/result": b"old"}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A result with the user's own things in it."""
    out = tmp_path / "out"
    (out / "runs" / "deep").mkdir(parents=True)
    (out / "runtime").mkdir()
    for name in ("result", "runs/deep/log", "runs/a", "runtime/mine", "runtime/theirs"):
        (out / name).write_text(f"old {name}")
    (out / "runs" / "link").symlink_to("nowhere")
    return out


def replaced(out: Path) -> None:
    with result_folder(out, [], overwrite=True) as folder:
        (folder / "result").write_text("new")
        (folder / "runtime").mkdir()
        (folder / "runtime" / "theirs").write_text("new")


@pytest.mark.parametrize("links", [True, False])
def test_what_the_user_has_is_carried_over_at_any_depth(
    links: bool, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(output.os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "no")))
    (earlier / "runs" / "deep").chmod(0o555)
    replaced(earlier)
    assert (earlier / "runs" / "deep").stat().st_mode & 0o777 == 0o555
    (earlier / "runs" / "deep").chmod(0o755)
    assert (earlier / "result").read_text() == (earlier / "runtime" / "theirs").read_text() == "new"
    for name in ("runs/deep/log", "runs/a", "runtime/mine"):
        assert (earlier / name).read_text() == f"old {name}"
    assert os.readlink(earlier / "runs" / "link") == "nowhere"
    assert [path.name for path in earlier.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, OSError(errno.EACCES, "Permission denied")])
def test_nothing_is_lost_where_it_cannot_be_carried_over(
    trouble: Any, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = tree(earlier.parent), list[str]()

    link = os.link

    def fail(source: str, place: Path, **options: Any) -> None:
        calls.append(source)
        if len(calls) > 2:
            raise trouble
        link(source, place, **options)

    monkeypatch.setattr(output.os, "link", fail)
    monkeypatch.setattr(output.shutil, "copy2", fail)
    monkeypatch.setattr(output.os, "symlink", fail)
    with pytest.raises(OutputError if isinstance(trouble, OSError) else trouble):
        replaced(earlier)
    assert tree(earlier.parent) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_never_gives_way_to_a_file(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if kind == "folder":
        (out / "result").mkdir()
        (out / "result" / "mine").write_text("mine")
    else:
        (out / "runtime").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="move it away"):
        replaced(out)
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_point_in_a_result_stays(earlier: Path) -> None:
    mount = earlier / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (mount / "mine").write_text("mine")
        before = tree(earlier.parent)
        with pytest.raises(OutputError, match="is a mount point"):
            replaced(earlier)
        assert tree(earlier.parent) == before
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_folder_of_another_user_stays() -> None:
    """What docker leaves as root in a user's result can neither be moved nor removed by the user."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name, "out")
        (out / "runs").mkdir(parents=True)
        (out / "result").write_text("old")
        (out / "runs" / "log").write_text("mine")
        for path in (Path(name), out, *out.rglob("*")):
            os.chown(path, 65534, 65534)
        (out / "docker").mkdir()
        (out / "docker" / "x").write_text("root's")
        before = tree(Path(name))
        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                replaced(out)
            except OutputError as error:
                status = 0 if "belongs to another user" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert tree(Path(name)) == before


def test_what_comes_in_while_folders_change_places_is_kept(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = output._exchange

    def late(first: Path, second: Path) -> None:
        (second / "late").write_text("mine")
        exchange(first, second)

    monkeypatch.setattr(output, "_exchange", late)
    replaced(earlier)
    assert (earlier / "late").read_text() == "mine"
    assert (earlier / "result").read_text() == "new"
    assert [path.name for path in earlier.parent.iterdir()] == ["out"]


def test_pipes_and_links_of_the_user_are_carried_over(earlier: Path, tmp_path: Path) -> None:
    os.mkfifo(earlier / "runs" / "pipe")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    (earlier / "outside").symlink_to(outside)
    with result_folder(earlier, [], overwrite=True) as folder:
        (folder / "result").write_text("new")
    assert (earlier / "runs" / "pipe").is_fifo()
    assert (earlier / "outside").is_symlink()
    assert (earlier / "result").read_text() == "new"
    assert (outside / "mine").read_text() == "mine"


def test_leftovers_of_killed_processes_are_removed_and_only_those(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-deadbeef" / "part").mkdir(parents=True)
    mode = tmp_path.stat().st_mode
    (tmp_path / ".out.json.partial-deadbeef").write_text("{")
    (tmp_path / ".other.partial-deadbeef").write_text("another's")
    (tmp_path / ".out.partial-notes").write_text("mine")
    with result_folder(tmp_path / "out", []) as first:
        (first / "result").write_text("first")
        # another one at the same time
        with pytest.raises(OutputError, match="another darkprune is about"), result_folder(tmp_path / "out", []):
            raise AssertionError
        assert (first / "result").exists()
    with atomic_file(tmp_path / "out.json") as file:
        file.write(b"{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.partial-deadbeef", ".out.partial-notes", "out", "out.json",
    ]  # fmt: skip
    assert tmp_path.stat().st_mode == mode


SLOW = """
import sys, time
import darkprune.surgery.surgery as surgery
cut = surgery.write_slim
def slow(weights, decided, constants, file, *rest):
    cut(weights, decided, constants, file, *rest)
    print("writing", flush=True)
    for _ in range(600):  # a signal that comes right before a sleep is answered after it
        time.sleep(0.1)
surgery.write_slim = slow
from darkprune.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_writing(
    number: signal.Signals, earlier: bool, prune: Any, small_pair: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if earlier:
        assert prune("--ratio", 0.3, "-o", out) == 0
    before = tree(tmp_path)
    arguments = ["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "-o", str(out), "--overwrite"]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        process.wait(timeout=30)
        message = process.stderr.read()
    after = tree(tmp_path)
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert message == "darkprune: interrupted; nothing was left behind\n"
        assert after == before
    else:  # what a killed run leaves lies hidden beside the target; that is as it was
        assert {name: data for name, data in after.items() if not name.startswith(".out.partial-")} == before
    assert prune("--ratio", 0.5, "-o", out, "--overwrite") == 0
    assert not list(tmp_path.glob(".out*"))


def test_two_runs_at_once_end_in_one_result(small_pair: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = [
        sys.executable,
        "-m",
        "darkprune",
        "prune",
        small_pair.cfg,
        small_pair.weights,
        "-o",
        str(out),
        "--overwrite",
    ]
    runs = [
        subprocess.Popen(
            [*base, "--ratio", ratio], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        for ratio in ("0.2", "0.6")
    ]
    for run in runs:
        _, message = run.communicate(timeout=60)
        assert "Traceback" not in message
    slim = [str(out / "small.cfg"), str(out / "small.weights")]
    assert main(["verify", small_pair.cfg, small_pair.weights, *slim, "--static"]) == 0


# ---- several processes


HOLD = """
import sys
from contextlib import ExitStack
from pathlib import Path
from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.darknet.output import alone, result_folder
from darkprune.runs.lock import locked
with ExitStack() as stack:
    made = {"locked": locked, "alone": alone, "folder": lambda path: result_folder(path, [], True),
            "temporary": lambda path: TemporaryFolder()}[sys.argv[1]](Path(sys.argv[2]))
    print(stack.enter_context(made), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(how: str, path: Path, temporary: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that works on a path, until it is killed; what it says."""
    environment = {**os.environ, **({"TMPDIR": str(temporary)} if temporary else {})}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, how, str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_folder_that_another_process_works_in_is_never_replaced(
    prune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert prune("--ratio", 0.3, "-o", out) == 0
    before = tree(out)
    capsys.readouterr()
    with holding("locked", out):
        assert "another darkprune is at work in it" in refusal(capsys, prune("--ratio", 0.5, "-o", out, "--overwrite"))
    with holding("folder", out):
        refused = refusal(capsys, prune("--ratio", 0.5, "-o", out, "--overwrite"))
        assert "another darkprune is about to write it" in refused
    assert tree(out) == {**before, ".lock": b""}
    assert prune("--ratio", 0.5, "-o", out, "--overwrite") == 0
    assert not list(tmp_path.glob(".out*"))


def test_two_reports_of_one_run(prune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert prune("--ratio", 0.3, "-o", out) == 0
    capsys.readouterr()
    command = ["report", str(out), "--runs", "0"]
    with holding("alone", out / "report.html"):
        assert "another darkprune is about to write it" in refusal(capsys, main(command))
    assert not (out / "report.html").exists()
    assert main(command) == 0
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("begun", [True, False])
def test_two_runs_of_compress(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    command = ["compress", "builtin:scenes", "builtin:scenes", "--target-macs", "0.9", "-o", str(tmp_path / "run")]
    if begun:  # killed before its first stage
        monkeypatch.setattr("darkprune.api.compress.run_stages", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command) == 130
        capsys.readouterr()
    before = tree(tmp_path)
    with holding("locked", tmp_path / "run"):
        assert main(command) == 1
    assert "another darkprune is at work in it" in capsys.readouterr().err
    assert tree(tmp_path) == {**before, "run": b"", "run/.lock": b""}
    assert main([*command, "--dry-run"]) == 0


def test_what_comes_to_be_while_work_goes_on_is_not_replaced(tmp_path: Path) -> None:
    def write_file() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"new")
            (tmp_path / "file").write_text("mine")

    def write_folder() -> None:
        with result_folder(tmp_path / "out", []) as folder:
            (folder / "result").write_text("new")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "result").write_text("mine")

    for write in (write_file, write_folder):
        with pytest.raises(OutputError, match="give --overwrite"):
            write()
    assert tree(tmp_path) == {"file": b"mine", "out": b"", "out/result": b"mine"}


@pytest.mark.parametrize("name", ["out.json", "out/deep/result"])
@pytest.mark.parametrize("kind", ["pipe", "link", "dangling", "device"])
def test_only_files_are_replaced(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "mine").write_text("mine")
        path.symlink_to({"link": tmp_path / "mine", "dangling": "nowhere", "device": os.devnull}[kind])

    def write_file() -> None:
        with atomic_file(path, overwrite=True) as file:
            file.write(b"{}")

    def write_folder() -> None:
        with result_folder(tmp_path / "out", [], overwrite=True) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "result").write_text("new")

    for write in (write_file, write_folder) if name.startswith("out/") else (write_file,):
        with pytest.raises(OutputError, match="never replaced"):
            write()
    assert path.is_fifo() if kind == "pipe" else path.is_symlink()
    assert kind == "pipe" or (tmp_path / "mine").read_text() == "mine"


def test_what_a_link_names_is_never_held(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with held(tmp_path / "mine") as alone_there:
        assert alone_there
    with pytest.raises(OSError, match="symbolic"), held(tmp_path / "link"):
        pass


def test_temporary_folders_of_killed_processes_are_removed_and_only_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "darkprune-my_notes"  # as temporary folders are named, but without an owner
    mine.mkdir()
    (mine / "a").write_text("mine")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        holding("temporary", tmp_path, tmp_path) as (working, name),
        holding("temporary", tmp_path, tmp_path) as (
            killed,
            left,
        ),
    ):
        assert Path(name).parent == Path(left).parent == tmp_path
        killed.kill()
        killed.wait()
        leftovers.remove_abandoned.cache_clear()
        with leftovers.TemporaryFolder() as own:
            assert sorted(tmp_path.iterdir()) == sorted([mine, Path(name), Path(own)])
        assert working.poll() is None
    assert (mine / "a").read_text() == "mine"


@pytest.mark.parametrize("swallowed", [ImportError("numpy failed"), None])
def test_ctrl_c_in_an_import_is_an_interruption(
    swallowed: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime's and numpy's imports make an ImportError of it."""

    def importing(name: str) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if swallowed is None:
                raise
            raise swallowed from None

    monkeypatch.setattr("darkprune.cli.main.import_module", importing)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["prune", "a", "b"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "darkprune: interrupted; nothing was left behind\n"


@pytest.mark.parametrize("moment", ["importing", "running"])
def test_ctrl_c_has_one_answer_from_the_first_import_on(moment: str) -> None:
    stop = "exec('signal.raise_signal(signal.SIGINT)')"
    place = f"def main(): {stop}" if moment == "running" else stop
    program = (
        "import signal, sys, types\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'darkprune.cli.main':\n"
        "            from importlib.machinery import ModuleSpec\n"
        "            return ModuleSpec(name, self)\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module):\n"
        f"        exec({'import signal' + chr(10) + place!r}, module.__dict__)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from darkprune.cli.entry import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "darkprune: interrupted; nothing was left behind\n")
