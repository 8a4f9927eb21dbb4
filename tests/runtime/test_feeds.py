"""What is fed to a stream may be anything: what cannot be heard is refused, and nothing else is
lost by it."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_program import SAMPLE_RATE, tones

from rdsdk.decoding.segment import Segment
from rdsdk.errors import AudioError, RdsdkError
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import Recognizer
from rdsdk.runtime.stream import Stream

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXTS = ["ABC DE", "F GH", "AB CA"]


@pytest.fixture(scope="module")
def program(streaming_pte) -> Program:
    return Program(streaming_pte)


def finals(segments: list[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.is_final]


def rounded(segments: list[Segment]) -> list[tuple]:
    return [
        (s.text, [(w.text, w.start, w.end, round(w.confidence, 4)) for w in s.words])
        for s in segments
    ]


def poisoned(value: float) -> np.ndarray:
    block = SPEECH[:999].copy()
    block[500] = value
    return block


BAD = {
    "nan": poisoned(np.nan),
    "infinity": poisoned(np.inf),
    "never scaled": 20_000.0 * SPEECH[:999],
    "int64": np.arange(999),
    "uint16": np.arange(999, dtype=np.uint16),
    "bool": np.ones(999, bool),
    "complex": SPEECH[:999].astype(np.complex64),
    "text": np.array(["a", "b"]),
    "objects": np.array([None, 1.0]),
    "bytes": b"\x00\x01" * 99,
    "one number": np.float32(0.5),
    "nothing": None,
    "three axes": np.zeros((4, 4, 4), np.float32),
    "no channels": np.zeros((99, 0), np.float32),
    "channels first": np.zeros((2, 999), np.float32),
    "ragged": [[0.1, 0.2], [0.3]],
    "gradients": torch.ones(99, requires_grad=True),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_is_no_sound_is_a_typed_error(program, name):
    stream = Stream(program)
    with pytest.raises(AudioError):
        stream.feed(BAD[name])
    if name != "nothing":  # which is the end of the sound there
        with pytest.raises(AudioError):
            stream.features(BAD[name])
    assert stream.seconds == 0


@pytest.mark.parametrize("rate", [0, -16_000, 1, 10**9, 44_100.5, np.nan, np.inf, "48000", None])
def test_an_absurd_rate_is_a_typed_error(program, rate):
    stream = Stream(program)
    with pytest.raises(AudioError, match="sample rate"):
        stream.feed(SPEECH[:999], rate)
    stream.feed(SPEECH)
    with pytest.raises(RdsdkError, match="reset"):
        stream.feed(SPEECH[:999], rate)
    assert stream.seconds == len(SPEECH) / SAMPLE_RATE


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 12_000), st.sampled_from(["mono", "stereo", "list", *BAD])),
        max_size=30,
    ),
    read=st.booleans(),
)
def test_fuzzed_feeds_lose_nothing_of_what_came_before_and_after(program, steps, read):
    stream, segments, at = Stream(program), [], 0
    for size, kind in steps:
        block = SPEECH[at : at + size]
        if kind in BAD:
            with pytest.raises(AudioError):
                stream.feed(BAD[kind])
            continue
        at += size
        forms = {
            "mono": block.astype(np.float64),
            "stereo": np.stack([block, block], axis=1),
            "list": block.tolist(),
        }
        if read and size % 2:
            stream.features(forms[kind])
        else:
            segments += stream.feed(forms[kind])
    segments += stream.feed(SPEECH[at:])
    segments += stream.finish()
    plain = Stream(program)
    wanted = [*plain.feed(SPEECH), *plain.finish()]
    assert rounded(finals(segments)) == rounded(finals(wanted))
    assert [s.text for s in finals(wanted)] == TEXTS


def test_ten_minutes_in_one_block(program):
    period = np.concatenate([SPEECH, np.zeros(-len(SPEECH) % 80_000, np.float32)])
    times = 600 * SAMPLE_RATE // len(period)
    stream = Stream(program, partials=False)
    segments = [*stream.feed(np.tile(period, times)), *stream.finish()]
    assert [s.text for s in segments] == TEXTS * times
    last, length = segments[-1], len(period) / SAMPLE_RATE
    assert last.start == pytest.approx(segments[2].start + (times - 1) * length, abs=0.021)


def test_threads_with_a_stream_each_hear_what_one_alone_hears(program):
    """In step with each other, so that their calls of the one program really alternate."""
    recognizer = Recognizer(program)
    sounds = [np.concatenate([tones(text), SPEECH]) for text in ("ABC_", "FGH D_", "E_", "CC_B_")]

    def alone(sound: np.ndarray) -> list[tuple]:
        stream, segments = recognizer.stream(), []
        for at in range(0, len(sound), 1_600):
            segments += stream.feed(sound[at : at + 1_600])
        return rounded([*segments, *stream.finish()])

    wanted = [alone(sound) for sound in sounds]
    barrier, found = threading.Barrier(len(sounds)), {}

    def work(index: int) -> None:
        padded = np.pad(sounds[index], (0, max(map(len, sounds)) - len(sounds[index])))
        stream, segments = recognizer.stream(), []
        for at in range(0, len(padded), 1_600):
            barrier.wait()
            segments += stream.feed(padded[at : min(at + 1_600, len(sounds[index]))])
        found[index] = rounded([*segments, *stream.finish()])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(sounds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict(enumerate(wanted))
    assert len({str(w) for w in wanted}) == len(sounds)
