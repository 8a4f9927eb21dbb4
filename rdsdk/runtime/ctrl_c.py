"""Ctrl-C between two blocks of sound, not in the midst of one: nothing that was heard is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np


class CtrlC:
    """Whether it was pressed, and whether it may raise now."""

    def __init__(self) -> None:
        self._pressed = False
        self._waiting = False

    def raise_if_pressed(self) -> None:
        """Raise KeyboardInterrupt for a Ctrl-C that had to wait."""
        if self._pressed:
            raise KeyboardInterrupt

    def between(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, for which nobody has to wait: Ctrl-C raises there."""
        each = iter(blocks)
        while True:
            # Before the question, so that it is never pressed between the two and not heard.
            self._waiting = True
            try:
                self.raise_if_pressed()
                block = next(each)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield block

    def handle(self, number: int, frame: FrameType | None) -> None:
        """What the signal calls. The second time it raises wherever it comes."""
        again, self._pressed = self._pressed, True
        if again or self._waiting:
            signal.default_int_handler(number, frame)


@contextmanager
def ctrl_c_waits() -> Iterator[CtrlC]:
    """Within, Ctrl-C does not raise KeyboardInterrupt before the end; a second one does at once.

    Where Python would not raise it either, on another thread or with somebody else's handler,
    nothing changes.
    """
    ctrl_c = CtrlC()
    on_main_thread = threading.current_thread() is threading.main_thread()
    if not on_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield ctrl_c
        return
    signal.signal(signal.SIGINT, ctrl_c.handle)
    try:
        yield ctrl_c
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ctrl_c.raise_if_pressed()
