"""Numbers are read as C reads them, and keys as darknet asks for them."""

from __future__ import annotations

import ctypes
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.options import INT_MAX, Options, atof, atoi
from darkprune.errors import CfgError

libc = ctypes.CDLL(None)
libc.atof.restype = ctypes.c_double
#: what can stand in a value: no white space, no NUL; x and letters of inf and nan would make other forms of numbers
numeral = st.text("0123456789.+-eE#,abcd", max_size=10)
free = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="xXiInN\x85\xa0"), max_size=10)


def options(text: str) -> Options:
    return Options(parse_cfg("[net]\n" + text, "x.cfg").sections[0], "x.cfg")


@given(numeral | free)
@example("-0000000000000005")
@example("+")
@example("\x0b\x0c7")
def test_atoi_is_that_of_the_c_library(text: str) -> None:
    expected = libc.atoi(text.encode("latin-1"))
    found = atoi(text)
    if -INT_MAX <= found < INT_MAX:
        assert found == expected


@pytest.mark.parametrize(("text", "value"), [("4294967297", INT_MAX), ("-" + "9" * 5000, -INT_MAX - 1)])
def test_integers_beyond_32_bits_do_not_wrap_around(text: str, value: int) -> None:
    assert atoi(text) == value


@given(numeral | free)
@example("1e999")
@example("1e-999")
@example(".e5")
@example("1.e5")
@example("1e+")
@example("-.5")
def test_atof_is_that_of_the_c_library(text: str) -> None:
    assert atof(text) == libc.atof(text.encode("latin-1"))


def test_forms_that_no_network_means_are_read_as_numbers_all_the_same() -> None:
    assert atof("nan") == atof("inf") == atof("0x10") == 0
    assert math.isinf(atof("1e999"))


def test_typed_reading() -> None:
    found = options("a=5.9\nb=1e3\nc=x\nd = 1, 2,3 # four\ne=.5,1e-1,\nf\ng=\nh=2\nh=3\ni=0\nj=-1,x\n")
    assert [found.int(key, 7) for key in "abcfghz"] == [5, 1, 0, 7, 7, 2, 7]
    assert [found.float(key, 7.0) for key in "abcfz"] == [5.9, 1000.0, 0.0, 7.0, 7.0]
    assert found.ints("d") == (1, 2, 3)
    assert found.floats("e") == (0.5, 0.1, 0.0)
    assert found.ints("j") == (-1, 0)
    assert found.ints("z") == found.floats("f") == ()
    assert (found.flag("h"), found.flag("i"), found.flag("z"), found.flag("z", True)) == (True, False, False, True)
    assert (found.text("d"), found.text("z", "none")) == ("1,2,3#four", "none")
    assert found.asked == set("abcdefghijz")


def test_lists_whose_commas_count_up_to_a_comment() -> None:
    found = options("mask=1,2 # not 3,4,5\n")
    assert found.ints("mask") == (1, 2, 4, 5)
    assert found.ints("mask", comment_ends=True) == (1, 2)


def test_errors_name_file_line_and_section() -> None:
    found = options("\nfilters=0\nlist=" + "1," * 5000 + "\n")
    with pytest.raises(CfgError, match=r"^x\.cfg:3: \[net\] filters=0 is out of range; it must be 1 to 2147483647$"):
        found.positive("filters", 1)
    with pytest.raises(CfgError, match=r"^x\.cfg:4: \[net\] list lists 5001 values"):
        found.ints("list")
    assert len(options("list=" + ",".join("1" * 4096) + "\n").ints("list")) == 4096
    assert found.positive("absent", 3) == 3
    assert str(found.error("says no")) == "x.cfg:1: [net] says no"
