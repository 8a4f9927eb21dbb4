"""One stream of segments, taken in three ways."""

import asyncio
import itertools

import pytest
from tiny_program import SAMPLE_RATE, tones

import rdsdk

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXTS = ["ABC DE", "F GH", "AB CA"]


@pytest.fixture(scope="module")
def recognizer(streaming_pte) -> rdsdk.Recognizer:
    return rdsdk.load(streaming_pte)


def blocks():
    for at in range(0, len(SPEECH), 1600):
        yield SPEECH[at : at + 1600]


def test_for_async_for_and_callbacks_give_the_same_events(recognizer):
    plain = list(recognizer.transcribe(blocks(), partials=True))

    async def gather():
        return [s async for s in recognizer.transcribe(blocks(), partials=True)]

    called = []
    recognizer.transcribe(blocks(), partials=True, on_segment=called.append).run()
    assert plain == asyncio.run(gather()) == called
    assert [s.text for s in plain if s.is_final] == TEXTS
    assert len(plain) > len(TEXTS)
    # A partial's stable part is a beginning of what follows it.
    for before, after in itertools.pairwise(plain):
        if not before.is_final:
            assert after.text.startswith(before.stable)


def test_without_partials_there_are_only_finals(recognizer):
    assert [s.text for s in recognizer.transcribe((SPEECH, SAMPLE_RATE))] == TEXTS


def test_the_event_loop_goes_on_while_segments_are_awaited(recognizer):
    async def both():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        texts = [s.text async for s in recognizer.transcribe(blocks())]
        ticking.cancel()
        return texts, ticks

    texts, ticks = asyncio.run(both())
    assert texts == TEXTS
    assert ticks > 10


def test_callbacks_are_called_on_the_loops_thread(recognizer):
    seen = []

    async def gather():
        loop = asyncio.get_running_loop()
        transcription = rdsdk.transcribe(
            blocks(),
            model=recognizer,
            on_segment=lambda s: seen.append(asyncio.get_running_loop() is loop),
        )
        return [s.text async for s in transcription]

    assert asyncio.run(gather()) == TEXTS
    assert seen == [True] * 3


def test_an_error_reaches_whoever_awaits(recognizer):
    def broken():
        yield SPEECH
        raise rdsdk.DeviceError("gone")

    async def gather(texts):
        async for segment in recognizer.transcribe(broken()):
            texts.append(segment.text)

    texts = []
    with pytest.raises(rdsdk.DeviceError, match="gone"):
        asyncio.run(gather(texts))
    assert texts == TEXTS
