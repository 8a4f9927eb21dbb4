"""Segments as they become known: for ``for``, for ``async for``, and for a callback alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from rdsdk.decoding.segment import Segment

OnSegment = Callable[[Segment], object]


class Transcription(Iterator[Segment], AsyncIterator[Segment]):
    """What ``transcribe`` gives: an iterator whose work is done as its segments are asked for.

    ``for`` works on the caller's thread. ``async for`` waits on another thread, so the event loop
    goes on meanwhile. ``on_segment`` is called with each segment before it is given; with nothing
    else to do, ``run()`` goes through to the end. All three see the same segments.
    """

    def __init__(self, segments: Iterator[Segment], on_segment: OnSegment | None = None) -> None:
        self._segments = segments
        self._on_segment = on_segment

    def __iter__(self) -> Transcription:
        return self

    def __next__(self) -> Segment:
        segment = next(self._segments)
        if self._on_segment is not None:
            self._on_segment(segment)
        return segment

    def __aiter__(self) -> Transcription:
        return self

    async def __anext__(self) -> Segment:
        # StopIteration cannot be raised into a future, so the end comes as None.
        segment = await asyncio.to_thread(next, self._segments, None)
        if segment is None:
            raise StopAsyncIteration
        # On the event loop's thread, where a caller of async code expects its callbacks.
        if self._on_segment is not None:
            self._on_segment(segment)
        return segment

    def run(self) -> None:
        """Go through to the end, for the sake of ``on_segment``."""
        for _ in self:
            pass
