"""Who gets the events of long work: the callback of the block that it runs in."""

from __future__ import annotations

from threading import Thread

import pytest

from darkprune.progress import ProgressEvent, current, reporting, say, silent, track, without_bars


def said(events: list[ProgressEvent]) -> list[str]:
    return [event.message for event in events]


def test_work_outside_of_any_block_is_of_no_interest(capsys: pytest.CaptureFixture[str]) -> None:
    say("nothing")
    track("nothing", 3)()
    assert capsys.readouterr() == ("", "")


def test_a_block_without_a_callback_goes_on_with_that_of_the_block_around_it() -> None:
    outer: list[ProgressEvent] = []
    inner: list[ProgressEvent] = []
    with reporting(outer.append):
        with reporting(None):
            say("a")
        with reporting(inner.append):
            say("b")
        with reporting(silent), reporting(None):
            say("c")
        with pytest.raises(KeyError), reporting(silent):
            raise KeyError
        say("d")
    say("e")
    assert (said(outer), said(inner)) == (["a", "d"], ["b"])


def test_the_outermost_block_takes_what_stands_for_bars() -> None:
    lines: list[ProgressEvent] = []
    with without_bars(lines.append):
        say("a")
        with reporting(None), reporting(None):
            say("b")
    assert said(lines) == ["b"]


class Collected(list[ProgressEvent]):
    """A callback that is false while it holds nothing."""

    __call__ = list.append


def test_a_callback_that_is_false_is_one_all_the_same() -> None:
    events, lines = Collected(), Collected()
    with without_bars(lines), reporting(events):
        with reporting(None):
            say("a")
        say("b")
    other = Collected()
    with reporting(events):
        say("c", other)
    assert (said(events), said(lines), said(other)) == (["a", "b"], [], ["c"])


def test_steps_report_to_the_block_that_they_are_taken_in() -> None:
    events: list[ProgressEvent] = []
    with reporting(events.append):
        step = track("work", 3, "piece")
        with reporting(silent):
            step()
        step()
    assert [(event.task, event.done, event.total, event.unit) for event in events] == [
        ("work", 0, 3, "piece"),
        ("work", 2, 3, "piece"),
    ]


def test_a_thread_is_given_the_callback() -> None:
    events: list[ProgressEvent] = []
    with reporting(events.append):
        callback = current()
        for thread in (Thread(target=say, args=("lost",)), Thread(target=say, args=("a", callback))):
            thread.start()
            thread.join()
    assert said(events) == ["a"]
