"""The command line: argument tree, the one place where errors become messages, exit codes.

0 done, 1 an error of the input (one line on stderr), 2 a wrong use of the command line, 3 not checked (`verify`),
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from io import TextIOWrapper
from tempfile import gettempdir
from types import FrameType
from typing import NoReturn

from darkprune import __version__
from darkprune.cli.commands import COMMANDS, JOBS
from darkprune.darknet.leftovers import remove_abandoned
from darkprune.errors import DarkpruneError, UsageError, nearest, one_line
from darkprune.progress import without_bars
from darkprune.runs.provenance import made_by_command

#: module -> extra that brings it
EXTRAS = {"torch": "train", "joblib": "train", "onnxruntime": "export", "matplotlib": "report"}
MOST_ARGUMENTS = 10_000  #: more words take argparse the longer, by their square


class _Parser(argparse.ArgumentParser):
    """Reports a wrong use in one line, instead of after the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Refuses a command line.

        Raises:
            UsageError: always.
        """
        command = self.prog.partition(" ")[2]
        raise UsageError(f"{command}{': ' if command else ''}{message} ({self.prog} --help)")


class _CommandParser(_Parser):
    """Names an unknown flag before anything else, with the one that may have been meant."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Reads a command's arguments; none may be left over."""
        if len(args or ()) > MOST_ARGUMENTS:
            self.error(f"{len(args)} arguments, of which at most {MOST_ARGUMENTS} are read")
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in args or ():
            name = word.partition("=")[0]
            if name == "--":
                break
            if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                self.error(f"there is no {name[:40]}{_meant(name, known)}")
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"{rest[0][:40]} is one argument too many")
        return found, rest


def _meant(word: str, known: Iterable[str]) -> str:
    close = nearest(word, known)
    return f"; did you mean {close}?" if close else ""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Builds the argument tree.

    Args:
        only: the command that will be run, whose module alone is imported.
    """
    parser = _Parser(
        prog="darkprune",
        usage="darkprune COMMAND …",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Prunes, checks and converts networks in Darknet's .cfg/.weights form.",
        epilog=_overview(),
    )
    parser.add_argument("--version", action="version", version=f"darkprune {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", help=argparse.SUPPRESS, parser_class=_CommandParser, prog="darkprune"
    )
    for name in COMMANDS if only is None else {only} & COMMANDS.keys():
        command = COMMANDS[name]
        sub = commands.add_parser(
            name,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="\n  ".join(["examples:", *(f"darkprune {name} {words}".rstrip() for words in command.examples)]),
        )
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        module = import_module(f"darkprune.cli.{command.module}")
        module.configure(sub)
        sub.usage = sub.usage or _usage(sub)
        sub.set_defaults(run=module.run)
    return parser


def _usage(parser: argparse.ArgumentParser) -> str:
    """Returns the usage line: what is required, as in the examples; the options stand below it, one by one."""
    words = [parser.prog]
    for action in sorted(parser._actions, key=lambda action: bool(action.option_strings)):
        if action.required:
            words.append(" ".join([*action.option_strings[:1], str(action.metavar)]))
        elif not action.option_strings:
            words.append(f"[{action.metavar}]")
    return " ".join([*words, "[options]"])


def _overview() -> str:
    """Lists the commands by job."""
    width = max(map(len, COMMANDS))
    lines = []
    for job, commands in JOBS.items():
        lines += [f"{job}:", *(f"  {name:<{width}}  {command.summary}" for name, command in commands.items()), ""]
    lines += [
        "darkprune COMMAND --help explains a command, with examples.",
        "Exit status: 0 done, 1 error, 2 wrong use, 3 not checked (verify).",
    ]
    return "\n".join(lines)


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
    with _Interrupt() as interrupt:
        try:
            return _run(given)
        except (Exception, KeyboardInterrupt) as error:
            if interrupt.asked or isinstance(error, KeyboardInterrupt):
                left = str(error) if isinstance(error, KeyboardInterrupt) else ""
                print(f"darkprune: interrupted; {left or 'nothing was left behind'}", file=sys.stderr)
                return 130
            if isinstance(error, BrokenPipeError):
                _mute()  # the reader of the pipe has gone
                return 0
            message = _message(error)
            if message is None or "--debug" in given:
                raise
            print(f"darkprune: error: {one_line(message)}", file=sys.stderr)
            if isinstance(error, OSError):
                _mute()
            return 2 if isinstance(error, UsageError) else 1


class _Interrupt:
    """Ends the command on Ctrl-C and SIGTERM alike, while it is entered.

    It remembers that it did, because modules that are being imported make errors of their own of it.

    Attributes:
        asked: whether there was a signal.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):  # the caller has none of its own
                    self._before[number] = before
                    signal.signal(number, self)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def __call__(self, number: int, frame: object) -> None:
        """Takes a signal."""
        self.asked = True
        raise KeyboardInterrupt


def _run(given: list[str]) -> int:
    command = next((word for word in given if not word.startswith("-")), "")
    if command and command not in COMMANDS:
        raise UsageError(f"there is no command {command[:40]}{_meant(command, COMMANDS)} (darkprune --help)")
    parser = build_parser(command)
    args = parser.parse_args(given)
    if args.command is None:
        parser.print_help()
        return 2
    remove_abandoned(gettempdir())
    from darkprune.cli.console import Lines  # brings numpy, whose threads `main` has bounded now

    with made_by_command(shlex.join(["darkprune", *given])), without_bars(Lines()):
        status: int = args.run(args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has gone; the status stays
        _mute()
    return status


def _message(error: BaseException) -> str | None:
    """Returns what a user is to know of an error; None where it is a fault of the program."""
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        size = " (3 GB to download; without a GPU install PyTorch's CPU build first)" * (EXTRAS[error.name] == "train")
        return f"this needs {error.name}: pip install 'darkprune[{EXTRAS[error.name]}]'{size}"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return f"{error.filename or 'standard output'}: {error.strerror or error}"
    return str(error) if isinstance(error, DarkpruneError) else None


def _mute() -> None:
    """Sends what is still to be printed nowhere: writing it at the end of the process would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
