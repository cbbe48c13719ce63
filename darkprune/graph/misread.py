"""What a cfg says and darknet reads otherwise, or not at all, without a word or with one that is easily missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from darkprune.darknet.cfg import COMMENT_MARKS, Cfg, Option, Section, excerpt, without_comment
from darkprune.darknet.options import Options, atof
from darkprune.errors import CfgError, nearest
from darkprune.layers import COMMON_KEYS, KINDS, Kind
from darkprune.layers.activations import FUNCTIONS

_NET = ("net", "network")
_SHOWN_LINES = 3
#: names of other programs for darknet's activations
_MEANT = {"silu": "swish", "sigmoid": "logistic", "hardmish": "hard_mish", "hswish": "", "hard_swish": "", "prelu": ""}
_WHOLE_NUMBERS = ("batch", "subdivisions", "width", "height", "channels", "max_batches", "burn_in")


def misread(cfg: Cfg, read: Sequence[tuple[Options, Kind]]) -> list[str]:
    """Lists what darknet reads otherwise than it was meant: one line each, however often it occurs.

    Args:
        read: for every section after `[net]` the options that its kind was read from, and the kind.
    """
    lines: dict[str, list[int]] = {}
    for text, line in _findings(cfg, read):
        lines.setdefault(text, []).append(line)
    return [f"{_places(found)}: {text}" for text, found in lines.items()]


def ignored_keys(cfg: Cfg) -> str | None:
    """Returns which keys of the layers' sections darknet does not know, for errors; None where it knows all."""
    found: dict[str, list[int]] = {}
    for section in cfg.sections[1:]:
        kind = KINDS.get(section.name)
        if kind is not None:
            options = Options(section, cfg.source)
            kind.read(options)
            known = _known(options, kind)
            for option in _unknown(section, known):
                found.setdefault(f"{excerpt(option.key)}{_nearest(option.key, known)}", []).append(option.line)
    if not found:
        return None
    keys = ", ".join(f"{key} in {_places(lines)}" for key, lines in list(found.items())[:_SHOWN_LINES])
    return f"darknet ignores {keys}"


def unknown_section(cfg: Cfg, section: Section) -> CfgError:
    """Makes the error for a section that darknet does not know."""
    where = f"{cfg.source}:{section.line}"
    known, closed, rest = section.name.removeprefix("[").partition("]")
    if closed and (known in KINDS or known in _NET):
        return CfgError(
            f"{where}: {excerpt(rest)} follows [{known}] on its line, and darknet takes all of it for the section's "
            "name: put a comment on a line of its own"
        )
    if section.name in _NET:
        return CfgError(f"{where}: a second [{section.name}]: does the file hold two networks? darknet reads one")
    close = nearest(section.name, KINDS)
    hint = f"; did you mean [{close}]?" if close else "; AlexeyAB's darknet does not know it either"
    return CfgError(f"{where}: unknown section [{excerpt(section.name)[1:-1]}]{hint}")


def _findings(cfg: Cfg, read: Sequence[tuple[Options, Kind]]) -> Iterator[tuple[str, int]]:
    """Yields texts, each with its line."""
    net = Options(cfg.sections[0], cfg.source)
    for key in _WHOLE_NUMBERS:
        net.int(key)
    net.ints("steps", comment_ends=True)
    yield from _odd_values(net)
    for options, kind in read:
        section = options.section
        known = _known(options, type(kind))
        for option in _unknown(section, known):
            name = f"{excerpt(option.key)}, which is no key of [{section.name}]"
            yield f"darknet ignores {name}{_nearest(option.key, known)}", option.line
        first: dict[str, str | None] = {}
        for option in section.options:
            if option.value != "" and first.setdefault(option.key, option.value) != option.value:
                yield f"darknet ignores {_shown(option)}: the section's first {option.key[:40]}= counts", option.line
        yield from _odd_values(options)
        yield from _activation(options, kind)


def _odd_values(options: Options) -> Iterator[tuple[str, int]]:
    for key, value in options.misread.items():
        text = excerpt(options.text(key))[1:-1]
        hint = f"; it counts batches (max_batches={options.int('max_batches')})" if key == "steps" else ""
        yield f"darknet reads {key}={text} as {value[:40]}{hint}", options.line(key)
    for option in options.section.options:
        value = option.value or ""
        is_number = value[:1].isdigit() or atof(value) != 0
        comment = any(mark in value for mark in COMMENT_MARKS)
        if comment and not is_number and option.key not in options.misread and option.key != "activation":
            yield f"darknet takes the comment for a part of the value: {_shown(option)}", option.line


def _activation(options: Options, kind: Kind) -> Iterator[tuple[str, int]]:
    given = options.text("activation")
    used = getattr(kind, "activation", given)
    if not given or used == given:
        return
    text = f"darknet does not know activation={excerpt(given)[1:-1]} and computes {used}"
    meant = _MEANT.get(without_comment(given).lower().replace("-", "_"))
    if meant:
        text += f"; its own name is {meant}: to convert what was meant, export with --as {meant}"
    elif any(mark in given for mark in COMMENT_MARKS):
        text += "; put the comment on a line of its own"
    elif given.lower() in FUNCTIONS:
        text += f"; did you mean {given.lower()}?"
    yield text, options.line("activation")


def _known(options: Options, kind: type[Kind]) -> frozenset[str]:
    """Returns the keys that darknet reads in a section, whose kind was read from the options."""
    return frozenset(options.asked) | kind.other_keys | COMMON_KEYS


def _nearest(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known)
    return f" (did you mean {close}?)" if close else ""


def _unknown(section: Section, known: frozenset[str]) -> Iterator[Option]:
    return (option for option in section.options if option.key not in known and option.value != "")


def _shown(option: Option) -> str:
    return excerpt(option.key if option.value is None else f"{option.key}={option.value}")[1:-1]


def _places(lines: Sequence[int]) -> str:
    """Names lines: the first of them, and how many there are."""
    if len(lines) == 1:
        return f"line {lines[0]}"
    more = len(lines) - _SHOWN_LINES
    return f"lines {', '.join(map(str, lines[:_SHOWN_LINES]))}" + (f" and {more} more" if more > 0 else "")
