"""Signals that ask for an end. A training finishes the step under way, saves its state, and leaves."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Signal `signum` asked for an end; a training has saved its state."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass
class Asked:
    """The signal that asked for an end, if one did."""

    signum: int | None = None


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end what runs as Ctrl-C does, so that what is half written is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, _: Any) -> None:
        raise Interrupted(signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_unfinished = threading.Event()


def leave_unfinished() -> None:
    """Say that a thread goes on for which nobody waits."""
    _unfinished.set()


def exiting(code: int) -> int:
    """The exit code, to end with; but where something was left unfinished, the process ends here.

    The interpreter's own end may wait for such a thread, and aborts where it comes back from a runtime's C++.
    """
    if _unfinished.is_set():
        with suppress(OSError):  # nobody reads it any more
            sys.stdout.flush()
        os._exit(code)
    return code


@contextmanager
def listening() -> Iterator[Asked]:
    """Let SIGINT and SIGTERM ask for an end after the step under way; a second SIGINT ends at once."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may listen to signals
        return

    def note(signum: int, _: Any) -> None:
        if asked.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked.signum = signum

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
