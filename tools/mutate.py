"""Tries the tests: puts small faults into the core, one at a time, and counts those that no test notices.

    python tools/mutate.py --sample 200                   # of the whole core
    python tools/mutate.py --rooms graph surgery --sample 100 --seed 1 --jobs 4

First the tests of the rooms run once, to learn which functions each of them calls and how long it takes. Then every
fault is tried by the tests that call its function, files of quick tests first, until one fails. Faults, their order and
the sample depend on the sources and the seed alone. What no test notices is listed at the end: either a test is
missing, or the changed program does the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import mean
from types import FrameType

import pytest
from mutations import Mutation, mutations_of

ROOT = Path(__file__).parents[1]
#: room -> (files with the faults, folders and files with the tests that are to notice them)
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "darknet": (("darkprune/darknet",), ("tests/darknet", "tests/graph", "tests/cli/test_output_folder.py")),
    "layers": (
        ("darkprune/layers",),
        ("tests/layers", "tests/graph", "tests/reference", "tests/network", "tests/evaluation", "tests/surgery"),
    ),
    "graph": (("darkprune/graph",), ("tests/graph", "tests/layers", "tests/surgery")),
    "surgery": (("darkprune/surgery",), ("tests/surgery", "tests/cli/test_surgery.py")),
    "selection": (
        ("darkprune/selection",),
        ("tests/surgery", "tests/cli/test_surgery.py", "tests/cli/test_bad_input.py", "tests/comparison/test_cells.py"),
    ),
    "decoding": (
        ("darkprune/evaluation/heads.py", "darkprune/evaluation/nms.py", "darkprune/evaluation/boxes.py"),
        ("tests/evaluation", "tests/engines/test_export_detections.py"),
    ),
    "losses": (("darkprune/training/losses",), ("tests/training",)),
}
#: imported once, before the process is copied for each fault
HEAVY = ("numpy", "cv2", "onnx", "onnxruntime", "torch", "hypothesis")
#: bytes that a process may allocate: a fault can ask for any number
MOST_MEMORY = 6 << 30
WAITING = 20  #: a process that waits for something takes no processor time: it ends after so many times its limit


@dataclass(frozen=True)
class Test:
    """What is known of a test from the first run.

    Attributes:
        seconds: processor time that it takes.
        calls: functions that it calls, as (file, first line).
    """

    seconds: float
    calls: frozenset[tuple[str, int]]


@dataclass
class _Running:
    mutation: Mutation
    slot: Path
    deadline: float


class _Watch:
    """Pytest plugin of the first run: records which functions of darkprune each test calls."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._prefix = f"{Path.cwd()}{os.sep}darkprune{os.sep}"
        self._codes: set[object] = set()
        self._tests: dict[str, dict[str, object]] = {}

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self._codes.add(frame.f_code)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._codes.clear()
        started = time.process_time()  # other work on the machine makes no difference
        sys.setprofile(self._called)
        yield
        sys.setprofile(None)
        calls = {
            (os.path.relpath(code.co_filename), code.co_firstlineno)  # type: ignore[attr-defined]
            for code in self._codes
            if code.co_filename.startswith(self._prefix)  # type: ignore[attr-defined]
        }
        self._tests[item.nodeid] = {"seconds": time.process_time() - started, "calls": sorted(calls)}

    def pytest_sessionfinish(self) -> None:
        self._output.write_text(json.dumps(self._tests), encoding="utf-8")


class _Choose:
    """Pytest plugin that runs some tests in a given order."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._rank = {name: number for number, name in enumerate(wanted)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._rank]
        items[:] = sorted(chosen, key=lambda item: self._rank[item.nodeid])


class _Quick:
    """Pytest plugin: hypothesis asks for the same examples every time, and does not look for the smallest one."""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutate", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
        )
        settings.load_profile("mutate")


def main() -> int:
    """Runs the command line; the exit status is 1 where fewer faults are noticed than asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS), help="parts of the core (all)")
    parser.add_argument("--sample", type=int, metavar="N", help="faults that are tried, drawn from all (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time (one per core)")
    parser.add_argument("--seconds", type=float, default=30, help="processor time of tests per fault (30)")
    parser.add_argument("--slow", action="store_true", help="run tests that are marked slow, too")
    parser.add_argument("--at-least", type=float, default=0, metavar="PERCENT", help="fail below this share")
    parser.add_argument("-o", "--output", type=Path, help="write the outcome of every fault to this file, as JSON")
    args = parser.parse_args()
    os.environ.update(CI="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    for name in HEAVY:
        try:
            import_module(name)
        except ImportError:
            print(f"without {name}: the tests that need it are skipped", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        return _run(args, Path(folder))


def _run(args: argparse.Namespace, folder: Path) -> int:
    source = _copy(ROOT, folder / "source")  # the project may be worked on meanwhile
    slots = [_copy(source, folder / f"copy{number}") for number in range(args.jobs)]
    tests = _learn(args, slots[0])
    drawn = random.Random(args.seed)
    every = [(room, mutation) for room in args.rooms for mutation in _all_of(room, source)]
    chosen = every if args.sample is None else drawn.sample(every, min(args.sample, len(every)))
    print(f"{len(tests)} tests, {len(every)} possible faults, {len(chosen)} of them tried", file=sys.stderr)
    room_of = {mutation: room for room, mutation in chosen}
    results = []
    for mutation, outcome in _try_all(args, list(room_of), tests, [source, *slots]):
        results.append((room_of[mutation], mutation, outcome))
        print(f"{len(results)}: {outcome}: {mutation.apply(source)[1]}", file=sys.stderr)
    results.sort(key=lambda entry: (args.rooms.index(entry[0]), entry[1].path, entry[1].line))
    return _tell(args, results, source)


def _copy(project: Path, place: Path) -> Path:
    """Copies what the tests need; the shared assets are found where they are."""
    for name in ("darkprune", "tests", "cfg", "weights", "tools", "docs"):
        shutil.copytree(project / name, place / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*project.glob("*.toml"), *project.glob("*.py"), *project.glob("*.md"), *project.glob("*.txt")]:
        shutil.copy(path, place / "project")
    shared = project.parent / "shared"
    if shared.exists():
        (place / "shared").symlink_to(shared.resolve())
    return place / "project"


def _all_of(room: str, source: Path) -> list[Mutation]:
    found: list[Mutation] = []
    for place in ROOMS[room][0]:
        path = source / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found += mutations_of(file, source)
    return found


def _learn(args: argparse.Namespace, slot: Path) -> dict[str, Test]:
    """Runs the tests once, without any fault.

    Returns:
        What is known of every test, by its name.
    """
    folders = sorted({entry for room in args.rooms for entry in ROOMS[room][1]})
    output = slot.parent / "tests.json"
    child = os.fork()
    if child == 0:
        _enter(slot, slot.parent / "log")
        more = [] if args.slow else ["-m", "not slow"]
        os._exit(_pytest([*folders, *more], [_Watch(output)]))
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        print((slot.parent / "log").read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
        sys.exit("the tests fail without any fault; mend that first")
    return {
        name: Test(entry["seconds"], frozenset((path, line) for path, line in entry["calls"]))
        for name, entry in json.loads(output.read_text(encoding="utf-8")).items()
    }


def _try_all(
    args: argparse.Namespace, mutations: Sequence[Mutation], tests: Mapping[str, Test], copies: Sequence[Path]
) -> Iterator[tuple[Mutation, str]]:
    """Tries faults, several at a time.

    Args:
        args: of the command line.
        mutations: the faults.
        tests: what is known of each test.
        copies: of the project: one that stays as it is, and one per process.

    Yields:
        Each with its outcome: "killed", "timed out", "survived" or "not reached".
    """
    source, *free = copies
    waiting, running = list(reversed(mutations)), dict[int, _Running]()
    while waiting or running:
        while free and waiting:
            mutation = waiting.pop()
            wanted = _tests_for(mutation, tests, args.seconds, source)
            if not wanted:
                yield mutation, "not reached"
                continue
            slot = free.pop()
            limit = 30 + 4 * sum(tests[name].seconds for name in wanted)
            child = _start(mutation, wanted, source, slot, limit)
            running[child] = _Running(mutation, slot, time.monotonic() + WAITING * limit)
        for child, state in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            late = os.WIFSIGNALED(status) if done else time.monotonic() > state.deadline
            if not done and late:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            if done or late:
                del running[child]
                free.append(state.slot)
                shutil.copy(source / state.mutation.path, state.slot / state.mutation.path)
                yield state.mutation, "timed out" if late else "survived" if status == 0 else "killed"
        time.sleep(0.02)


@cache
def _imported(file: Path) -> frozenset[str]:
    """Returns the modules of darkprune that a test file imports from."""
    return frozenset(re.findall(r"^from (darkprune[\w.]*) import", file.read_text(encoding="utf-8"), re.MULTILINE))


def _tests_for(mutation: Mutation, tests: Mapping[str, Test], seconds: float, source: Path) -> list[str]:
    """Lists the tests that call the function of a fault, up to some seconds of them.

    After them come the other tests of files that import its module: they may call the function in a process of their
    own, which is not seen. A fault outside of functions is tried by the tests that call anything of its module. Files
    that import the module come first, then those of the fault's own room; of these the files whose tests are quick,
    which look at little each.
    """
    module = mutation.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(name: str) -> bool:
        return module in _imported(source / name.partition("::")[0])

    def calls(test: Test) -> bool:
        if mutation.function:
            return (mutation.path, mutation.function) in test.calls
        return any(path == mutation.path for path, _ in test.calls)

    folders = next(folders for places, folders in ROOMS.values() if mutation.path.startswith(places))
    reaching = {name: test.seconds for name, test in tests.items() if calls(test) or imports(name)}
    per_file: dict[str, list[float]] = {}
    for name, duration in reaching.items():
        per_file.setdefault(name.partition("::")[0], []).append(duration)

    def order(name: str) -> tuple[bool, bool, int, float, str, float]:
        file = name.partition("::")[0]
        near = next((number for number, folder in enumerate(folders) if file.startswith(folder)), len(folders))
        return not calls(tests[name]), not imports(name), near, mean(per_file[file]), file, reaching[name]

    chosen: list[str] = []
    total = 0.0
    for name in sorted(reaching, key=order):
        if not chosen or total + reaching[name] <= seconds:
            total += reaching[name]
            chosen.append(name)
    return chosen


def _start(mutation: Mutation, wanted: Sequence[str], source: Path, slot: Path, seconds: float) -> int:
    """Starts a process that runs tests on a copy with the fault, for some processor time; returns its number."""
    (slot / mutation.path).write_text(mutation.apply(source)[0], encoding="utf-8")
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        most = int(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        _enter(slot, slot.parent / "log")
        files = sorted({name.partition("::")[0] for name in wanted})
        os._exit(_pytest(["-x", *files], [_Choose(wanted)]))
    return child


def _enter(slot: Path, log: Path) -> None:
    """Makes a copy of the project the one that this process imports, tests and speaks of."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.chdir(slot)
    sys.path.insert(0, str(slot))
    os.environ["PYTHONPATH"] = str(slot)
    sys.dont_write_bytecode = True
    place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(place if stream else os.open(os.devnull, os.O_RDONLY), stream)


def _pytest(arguments: Sequence[str], plugins: Sequence[object]) -> int:
    try:
        return int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments], [*plugins, _Quick()]))
    except BaseException:  # a fault can make anything of the process
        return 3


def _tell(args: argparse.Namespace, results: Sequence[tuple[str, Mutation, str]], source: Path) -> int:
    columns = ("killed", "timed out", "survived", "not reached")
    print(f"\n{'room':<12}" + "".join(f"{name:>13}" for name in columns) + f"{'noticed':>10}")
    share = 100.0
    for room in [*args.rooms, "all"]:
        counts = Counter(outcome for name, _, outcome in results if room in (name, "all"))
        if counts:
            share = 100 * (counts["killed"] + counts["timed out"]) / counts.total()
            print(f"{room:<12}" + "".join(f"{counts[name]:>13}" for name in columns) + f"{share:>9.1f}%")
    lost = [mutation for _, mutation, outcome in results if outcome in columns[2:]]
    print("\n".join(["", "not noticed:", *(f"  {mutation.apply(source)[1]}" for mutation in lost)]) if lost else "")
    if args.output:
        rows = [{"room": room, "fault": fault.apply(source)[1], "outcome": outcome} for room, fault, outcome in results]
        args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(share < args.at_least)


if __name__ == "__main__":
    sys.exit(main())
