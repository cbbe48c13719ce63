"""Work done beside the main thread: one function in a thread, or many items in processes (through joblib)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

from darkprune.errors import DarkpruneError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def giving_back_memory() -> Iterator[None]:
    """Returns large blocks to the system as soon as they are freed; glibc (Linux) would keep those up to 32 MiB."""
    import ctypes  # 5 ms that only those pay who need it

    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is None:
        yield
        return
    threshold = -3  # M_MMAP_THRESHOLD: bytes from which a block is one of its own
    set_option(threshold, 1 << 20)
    try:
        yield
    finally:
        set_option(threshold, 32 << 20)  # glibc's most, where it would be by now


def in_background(work: Callable[[], _Result]) -> Callable[[], _Result]:
    """Starts a function in a thread; `concurrent.futures` would take 10 ms to import.

    Returns:
        What to call for its result: waits for it, and raises what the function raised.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run)
    thread.start()

    def result() -> _Result:
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return result


def in_processes(work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[_Result]:
    """Yields what comes of each item, as it comes: in any order where there are several processes.

    Args:
        work: what is done with an item; with several processes it, items and results are pickled.
        items: what to work on.
        jobs: processes, between which the cores are divided; with one, or one item, this process does it all.

    Raises:
        DarkpruneError: a process was ended from outside; and what `work` raises.
    """
    if jobs == 1 or len(items) < 2:
        yield from map(work, items)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import BrokenProcessPool

    threads = max(1, usable_cores() // jobs)
    with parallel_config(backend="loky", inner_max_num_threads=threads):
        try:
            yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(work)(item) for item in items)
        except BrokenProcessPool:
            raise DarkpruneError(
                "one of the processes was ended from outside, perhaps for want of memory; what is done stays: the same "
                "command goes on, with fewer --jobs if need be"
            ) from None
