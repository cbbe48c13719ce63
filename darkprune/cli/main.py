"""The command line: argument tree, the one place where errors become messages, exit codes.

0 done, 1 an error of the input (one line on stderr), 2 a wrong use of the command line, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from darkprune import __version__
from darkprune.errors import DarkpruneError, UsageError
from darkprune.runs.provenance import made_by_command

#: module -> extra that brings it
EXTRAS = {"torch": "train", "joblib": "train", "onnxruntime": "export", "matplotlib": "report"}
#: command -> (module, one-line help), in the order of a user's work
COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("info", "what is in a network: layers, shapes, parameters, operations, bytes"),
    "groups": ("groups", "how a network is divided, which convolutions are coupled, what is pinned and why"),
    "prune": ("prune", "take channels out of a pair"),
    "verify": ("verify", "check a pruned pair against its original"),
    "detect": ("detect", "find objects in images, folders and videos"),
    "eval": ("eval", "measure mAP on labelled images"),
    "bench": ("bench", "time a network, or two in turn"),
    "compress": ("compress", "from a checkpoint to a slim one, ready to use: train, prune, recover, distil, export"),
    "cliff": ("cliff", "how far a pair can be pruned before it falls, beside the unpruned one at smaller inputs"),
    "compare": ("compare", "methods, budgets and recoveries side by side: one table, and curves"),
    "check": ("check", "list what is wrong with a data set"),
    "train": ("train", "train a network, sparsely if wished"),
    "distill": ("distill", "let a pruned network learn from the original"),
    "export": ("export", "write a pair as an ONNX file, checked"),
    "engine": ("engine", "build a TensorRT engine of an ONNX file on this machine"),
    "kit": ("kit", "write a folder to copy to a Jetson: network, scripts, configuration"),
    "report": ("report", "tell a run in one HTML file: tables, diagrams, images"),
    "init": ("init", "write fresh weights for a cfg"),
    "demo": ("demo", "the main job from end to end on drawn scenes: evaluate, prune, verify, distil"),
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Builds the argument tree.

    Args:
        only: the command that will be run: the others are named, but their modules are not imported.
    """
    parser = argparse.ArgumentParser(
        prog="darkprune",
        description="Model surgery for Darknet detectors: prune a .cfg/.weights pair, verify it, convert it.",
        epilog="darkprune COMMAND --help says what each takes. Exit status: 0 done, 1 error, 2 wrong use.",
    )
    parser.add_argument("--version", action="version", version=f"darkprune {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module_name, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if only in (None, name):
            module = import_module(f"darkprune.cli.{module_name}")
            module.configure(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # numpy's BLAS would start a thread per core and take 90 ms for it; surgery multiplies little
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # threads of torch that wait would spin, and take the cores from whoever they wait for: on a busy machine a step
    # takes ten times as long then
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # γ on a terminal that has no Greek
    try:
        return _run(given)
    except KeyboardInterrupt as stop:
        print(f"darkprune: interrupted; {str(stop) or 'nothing was left behind'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _mute()  # the reader of the pipe has gone
        return 0
    except ModuleNotFoundError as error:
        if "--debug" in given or error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        print(f"darkprune: error: this needs {error.name}: pip install 'darkprune[{extra}]'", file=sys.stderr)
        return 1
    except (DarkpruneError, MemoryError, OSError) as error:
        if "--debug" in given:
            raise
        print(f"darkprune: error: {_line(error)}", file=sys.stderr)
        if isinstance(error, OSError):
            _mute()
        return 2 if isinstance(error, UsageError) else 1


def _run(given: list[str]) -> int:
    command = next((word for word in given if not word.startswith("-")), None)
    parser = build_parser(command if command in COMMANDS else "")
    args = parser.parse_args(given)
    if args.command is None:
        parser.print_help()
        return 2
    with made_by_command(shlex.join(["darkprune", *given])):
        status: int = args.run(args)
    sys.stdout.flush()
    return status


def _line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return f"{error.filename or 'standard output'}: {error.strerror or error}"
    return str(error)


def _mute() -> None:
    """Sends what is still to be printed nowhere: writing it at the end of the process would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
