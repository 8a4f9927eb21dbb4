"""One stream of segments, taken in three ways."""

import asyncio
import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
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


class Waiting:
    """A source that gives its sound, and then waits for more until it is told to stop."""

    def __init__(self, sound):
        self.sound, self.told, self.closed = sound, threading.Event(), False

    def __iter__(self):
        try:
            yield self.sound
            self.told.wait(30)
        finally:
            self.closed = True

    def stop(self):
        self.told.set()


def test_a_request_that_was_given_up_loses_no_segment(recognizer):
    held = threading.Event()

    def slow():
        yield SPEECH[:1600]
        held.wait(30)
        yield SPEECH[1600:]

    async def gather():
        transcription = recognizer.transcribe(slow())
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(transcription), 0.05)
        held.set()
        return [(await anext(transcription)).text, *[s.text for s in transcription]]

    assert asyncio.run(gather()) == TEXTS


def test_what_waits_for_sound_does_not_keep_a_program_from_ending():
    program = """
import asyncio, itertools, os, signal, threading, time
import numpy as np
import rdsdk

def sound():
    for _ in itertools.count():
        yield np.zeros(1600, np.float32)
        time.sleep(0.01)

async def listen():
    async for segment in rdsdk.transcribe(sound(), "digits"):
        pass

threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    asyncio.run(listen())
except KeyboardInterrupt:
    print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_a_loop_that_is_left_goes_on_until_it_is_closed(recognizer):
    source = Waiting(SPEECH)
    with recognizer.transcribe(source) as transcription:
        assert next(transcription).text == TEXTS[0]
        assert next(transcription).text == TEXTS[1]
        assert not source.closed
    assert source.closed
    assert list(transcription) == []


def test_closing_has_a_source_that_waits_give_up(recognizer):
    source = Waiting(SPEECH[:8000])

    async def leave():
        async with recognizer.transcribe(source) as transcription:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(transcription), 0.2)
        await asyncio.wrap_future(transcription._pending)

    asyncio.run(leave())
    assert source.told.is_set()
    assert source.closed


def test_what_was_heard_before_a_broken_sample_is_given(recognizer, tmp_path):
    sound = np.concatenate([SPEECH, np.zeros(SAMPLE_RATE, np.float32)])
    sound[-1] = np.nan
    path = tmp_path / "broken.wav"
    soundfile.write(path, sound, SAMPLE_RATE, subtype="FLOAT")
    for source in (str(path), [sound[:-100], sound[-100:]]):
        texts = []
        with pytest.raises(rdsdk.AudioError, match="not numbers"):
            texts.extend(segment.text for segment in recognizer.transcribe(source))
        assert texts == TEXTS
