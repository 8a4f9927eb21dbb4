"""Segments as they become known: for ``for``, for ``async for``, and for a callback alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future

from rdsdk.decoding.segment import Segment

OnSegment = Callable[[Segment], object]


class Transcription(Iterator[Segment], AsyncIterator[Segment]):
    """What ``transcribe`` gives: an iterator whose work is done as its segments are asked for.

    ``for`` works on the caller's thread. ``async for`` waits on another thread, so the event loop
    goes on meanwhile. ``on_segment`` is called with each segment before it is given; with nothing
    else to do, ``run()`` goes through to the end. All three see the same segments.

    A loop that is left early keeps the source open, to be gone on with. ``close`` ends it, and so
    does leaving a ``with`` or ``async with`` block.
    """

    def __init__(
        self,
        segments: Generator[Segment, None, None],
        on_segment: OnSegment | None = None,
        stop: Callable[[], None] | None = None,
    ) -> None:
        """``stop``, if there is one, has a source that is waiting for sound give it up soon."""
        self._segments = segments
        self._on_segment = on_segment
        self._stop = stop
        # What another thread is working on, from a request whose asker may have given up.
        self._pending: Future[Segment | None] | None = None

    def __iter__(self) -> Transcription:
        return self

    def __next__(self) -> Segment:
        if self._pending is None:
            return self._told(next(self._segments))
        pending, self._pending = self._pending, None
        segment = pending.result()
        if segment is None:
            raise StopIteration
        return self._told(segment)

    def __aiter__(self) -> Transcription:
        return self

    async def __anext__(self) -> Segment:
        if self._pending is None:
            self._pending = Future()
            # So that a request that is cancelled, as by a time limit, does not cancel the work: the
            # next one gets what comes of it.
            self._pending.set_running_or_notify_cancel()
            # Not the event loop's own threads, which it waits for when it ends.
            threading.Thread(target=self._work, args=(self._pending,), daemon=True).start()
        try:
            segment = await asyncio.wrap_future(self._pending)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._pending = None
            raise
        self._pending = None
        if segment is None:
            raise StopAsyncIteration
        # On the event loop's thread, where a caller of async code expects its callbacks.
        return self._told(segment)

    def run(self) -> None:
        """Go through to the end, for the sake of ``on_segment``."""
        for _ in self:
            pass

    def close(self) -> None:
        """Let go of the source, a microphone among others; there are no more segments then."""
        if self._pending is None:
            self._segments.close()
            return
        # Another thread is at it, perhaps waiting for sound.
        if self._stop is not None:
            self._stop()
        self._pending.add_done_callback(lambda _: self._segments.close())

    async def aclose(self) -> None:
        """The same."""
        self.close()

    def __enter__(self) -> Transcription:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Transcription:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def _told(self, segment: Segment) -> Segment:
        if self._on_segment is not None:
            self._on_segment(segment)
        return segment

    def _work(self, pending: Future[Segment | None]) -> None:
        try:
            segment = next(self._segments, None)
        except BaseException as error:  # whatever it is, it belongs to who asked
            pending.set_exception(error)
        else:
            pending.set_result(segment)
