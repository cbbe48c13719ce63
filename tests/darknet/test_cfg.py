"""The text model: nothing is lost, an edit changes one value, and bad files are told apart."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darkprune.darknet import cfg as cfg_module
from darkprune.darknet.cfg import parse_cfg, read_cfg
from darkprune.darknet.recognise import is_utf16
from darkprune.errors import CfgError
from tests.assets import ZOO, needs_assets

SAMPLE = "[net]\r\n  wid th = 4 16 # inline\r\n\r\n; note\r\n[conv]\n\tfilters=\t3 \nfilters=5\nbare\nempty=\nsize=3"


def blankless(text: str) -> str:
    return "".join(c for c in text if c not in " \t\r\n")


blanks = st.text(" \t\r", max_size=3)
latin = st.text(st.characters(max_codepoint=255, exclude_characters="\n\0"), max_size=12)
word = st.text("abcdef_123", min_size=1, max_size=8)
lines = st.one_of(
    st.builds("{}{}{}={}{}{}".format, blanks, word, blanks, blanks, latin, blanks),
    st.builds("{}[{}]{}".format, blanks, word, blanks),
    st.builds("{}{}{}".format, blanks, st.sampled_from("#;"), latin),
    st.sampled_from(
        ["", "   ", "\r", "=", "==", "= 5", "=#", "key", "k e y = 1,2 ,3", "filters=", "filters = 7 # seven"]
    ),
)
bodies = st.builds(
    lambda ends, rest, last: "[net]\n" + "".join(line + end for line, end in zip(rest, ends, strict=True)) + last,
    st.just(["\n", "\r\n", "\n", "\n", "\r\n", "\n"]),
    st.lists(lines, min_size=6, max_size=6),
    st.sampled_from(["", "[conv]", "a=1", "# \xe9\xff", "\r"]),
)


@needs_assets
def test_zoo_files_come_back_byte_for_byte() -> None:
    paths = sorted(ZOO.glob("*.cfg"))
    assert len(paths) == 87
    for path in paths:
        assert read_cfg(path).encode() == path.read_bytes(), path


@given(bodies)
@example(SAMPLE)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    parsed = parse_cfg(text)
    assert str(parsed) == text
    assert parsed.encode().decode("latin-1") == text
    assert str(parsed.with_values({})) == text
    assert str(parsed.without_sections(set())) == text


@given(bodies)
def test_reading_follows_darknets_lexer(text: str) -> None:
    """A second, naive reading of the same rules."""
    expected: list[tuple[str, list[tuple[str, str]]]] = []
    for line in text.split("\n"):
        stripped = blankless(line)
        if not stripped or stripped[0] in "#;":
            continue
        if stripped[0] == "[":
            expected.append((stripped, []))
        elif not stripped.endswith("=") or stripped.count("=") > 1:
            key, _, value = stripped.partition("=")
            expected[-1][1].append((key, value))
    found = []
    for section in parse_cfg(text).sections:
        header = section.name if section.name.startswith("[") else f"[{section.name}]"
        found.append((header, [(o.key, o.value or "") for o in section.options if o.value != ""]))
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, got), (_, wanted) in zip(found, expected, strict=True):
        assert got == [(key, value) for key, value in wanted if value or (key, "") in got]


def test_the_sample_is_read_as_darknet_reads_it() -> None:
    net, conv = parse_cfg(SAMPLE).sections
    assert [(o.key, o.value, o.line) for o in net.options] == [("width", "416#inline", 2)]
    assert [(o.key, o.value, o.line) for o in conv.options] == [
        ("filters", "3", 6),
        ("filters", "5", 7),
        ("bare", None, 8),
        ("empty", "", 9),
        ("size", "3", 10),
    ]
    first = conv.find("filters")
    assert first is not None
    assert first.value == "3"


def test_a_dropped_line_does_not_hide_a_later_one_but_a_bare_key_does() -> None:
    dropped, bare = parse_cfg("[net]\na=\na=5\n[conv]\na\na=5\n").sections
    found = dropped.find("a")
    assert found is not None
    assert found.value == "5"
    assert bare.find("a") is None


@given(bodies, word, st.text("0123456789,.-", min_size=1, max_size=6))
def test_a_changed_value_changes_nothing_else(text: str, key: str, value: str) -> None:
    before = parse_cfg(text)
    for number in range(len(before.sections)):
        after = before.with_values({(number, key): value})
        option = after.sections[number].find(key)
        assert option is not None
        assert option.value is not None
        assert option.value.split("#")[0] == value
        others = [(s.name, [o[:2] for o in options_of(s) if o[0] != key]) for s in after.sections]
        assert others == [(s.name, [o[:2] for o in options_of(s) if o[0] != key]) for s in before.sections]
        kept = [line for i, line in enumerate(after.lines, 1) if i != option.line]
        untouched = [line for line in before.lines if line in kept or line + "\n" in kept]
        assert len(untouched) >= len(before.lines) - 1


def options_of(section: cfg_module.Section) -> list[tuple[str, str | None]]:
    return [(o.key, o.value) for o in section.options]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("filters=3\n", "filters=7\n"),
        ("  filters  =  3  \r\n", "  filters  =  7  \r\n"),
        ("fil ters = 3 # three = 3\n", "fil ters = 7 # three = 3\n"),
        ("filters = 1 6\n", "filters = 7\n"),
        ("filters=3\nfilters=4\n", "filters=7\nfilters=4\n"),
        ("filters\n", "filters=7\n"),
        ("filters=\n", "filters=\nfilters=7\n"),
        ("size=3\n\n# end\n", "size=3\nfilters=7\n\n# end\n"),
        ("size=3", "size=3\nfilters=7"),
        ("", "filters=7\n"),
        ("size=3\r\n\r\n", "size=3\r\nfilters=7\r\n\r\n"),
    ],
)
def test_edits(before: str, after: str) -> None:
    edited = parse_cfg("[net]\nwidth=3\n[conv]\n" + before).with_values({(1, "filters"): "7"})
    assert str(edited) == "[net]\nwidth=3\n[conv]\n" + after


def test_edits_of_several_sections_at_once() -> None:
    text = "# head\n[net]\nwidth=3\n\n[conv]\nsize=1\n[conv]\nfilters=2"
    edited = parse_cfg(text).with_values({(0, "height"): "5", (1, "size"): "3", (1, "groups"): "2", (2, "a"): "1"})
    assert str(edited) == "# head\n[net]\nwidth=3\nheight=5\n\n[conv]\nsize=3\ngroups=2\n[conv]\nfilters=2\na=1"


def test_removed_sections_leave_the_comments_around_them() -> None:
    text = "[net]\na=1\n# one\n[conv]\nb=2\n\n# two\n[conv]\nc=3\n# three\nd=4\n\n# four\n[max]\n"
    assert str(parse_cfg(text).without_sections({2})) == "[net]\na=1\n# one\n[conv]\nb=2\n\n# two\n\n# four\n[max]\n"
    assert str(parse_cfg(text).without_sections({1, 3})) == text.replace("[conv]\nb=2\n", "").replace("[max]\n", "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no"),
        (b"\n# nothing\n", "has no"),
        (b"\xef\xbb\xbf[net]\n", "byte order mark"),
        (b"width=3\n[net]\n", "before any"),
        (b"junk\n", "before any"),
        (b"[net]\0\n", "binary"),
        (b"\x1b]0;x\x07=1\n", "before any"),
        (b"[a]\n" * 20_001, "more than 20000 sections"),
    ],
)
def test_unreadable_files(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(data)
    with pytest.raises(CfgError, match=message) as raised:
        read_cfg(path)
    text = str(raised.value)
    assert text.startswith(str(path))
    assert text.isprintable()


def test_too_many_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cfg_module, "MAX_SECTIONS", 2)
    assert len(parse_cfg("[net]\n[dropout]\n").sections) == 2
    with pytest.raises(CfgError, match="cfg:3: more than 2 sections"):
        parse_cfg("[net]\n[dropout]\n[dropout]\n")


def test_missing_file_directory_and_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CfgError, match="no such file"):
        read_cfg(tmp_path / "absent.cfg")
    with pytest.raises(CfgError, match="is a directory"):
        read_cfg(tmp_path)
    with pytest.raises(CfgError, match="cannot be read"):
        read_cfg(tmp_path / ("y" * 300))
    monkeypatch.setattr(cfg_module, "MAX_BYTES", 1 << 20)
    (tmp_path / "big.cfg").write_bytes(b"[net]\n" + b"#" * (1 << 20))
    with pytest.raises(CfgError, match="larger than 1 MiB"):
        read_cfg(tmp_path / "big.cfg")


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(CfgError):
        assert parse_cfg(data.decode("latin-1")).encode() == data


@pytest.mark.parametrize("comment", ["# was 64", "; was 64", "// was 64", "#", "  ;  a, b"])
def test_a_comment_after_a_value_stays_when_the_value_changes(comment: str) -> None:
    cfg = parse_cfg(f"[net]\n[conv]\nfilters = 32  {comment}\r\nsize=3\n")
    assert str(cfg.with_values({(1, "filters"): "24"})) == f"[net]\n[conv]\nfilters = 24  {comment}\r\nsize=3\n"


def test_commas_of_a_comment_do_not_become_items_of_a_list() -> None:
    cfg = parse_cfg("[net]\n[route]\nlayers = -1, 5 # a, b\n[route]\nlayers=-2 # one")
    assert str(cfg.with_values({(1, "layers"): "-1,4"})) == "[net]\n[route]\nlayers = -1,4\n[route]\nlayers=-2 # one"
    assert str(cfg.with_values({(2, "layers"): "-3"})).endswith("layers=-3 # one")


def test_what_darknet_reads_is_all_that_other_programs_get() -> None:
    text = "[net]\n[conv]\nfilters=8 ; was 9\r\nbare\nsize=\nfilters=9\nactivation=leaky\n[route]\nlayers=-1 # a, b\n"
    read = "[net]\n[conv]\nfilters=8\r\n\n\n\nactivation=leaky\n[route]\nlayers=-1 # a, b\n"
    assert str(parse_cfg(text).as_read()) == read
    anchors = parse_cfg("[net]\n[yolo]\nanchors = 1,2, 3,4 # 5,6")
    assert str(anchors.as_read()) == "[net]\n[yolo]\nanchors=1,2,3,4"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[net]\rwidth=8\r[conv]\rfilters=4\r", "lines end in a carriage return alone"),
        ("\ufeff[net]\nwidth=8\n".encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        ("[net]\nwidth=8\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("[net]\nwidth=8\n".encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        ("[net".encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<html><body>404</body></html>", "is a web page"),
        (gzip.compress(b"[net]", mtime=0), "is compressed with gzip"),
    ],
)
def test_what_is_no_cfg_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_bytes(data)
    with pytest.raises(CfgError, match=message) as raised:
        read_cfg(tmp_path / "x.cfg")
    assert len(str(raised.value).removeprefix(str(tmp_path))) < 200


def test_utf16_is_told_from_few_characters() -> None:
    assert not is_utf16("[ne".encode("utf-16-le"))
    assert is_utf16("[net".encode("utf-16-le"))
