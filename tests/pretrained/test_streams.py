"""The bundled model as a stream hears the same however it is fed: in any blocks, at any rate, from
several threads, with a gate and without."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

import rdsdk
from rdsdk.audio import files

DIGITS = Path(__file__).parents[1] / "assets" / "digits"
ROWS = [json.loads(line) for line in (DIGITS / "manifest.jsonl").open()]
PIN = files.read(DIGITS / "theo-pin.flac")
RULES = rdsdk.EndpointRules(trailing_silence_seconds=0.4, no_speech_seconds=0.5)


@pytest.fixture(scope="module")
def recognizer() -> rdsdk.Recognizer:
    return rdsdk.load("digits")


def stream_of(recognizer: rdsdk.Recognizer, gated: bool) -> rdsdk.Stream:
    gate = rdsdk.SpeechGate() if gated else None
    return recognizer.stream(RULES, partials=False, gate=gate)


def fed(
    stream: rdsdk.Stream, samples: np.ndarray, sizes: list[int], rate: int = 16_000
) -> list[rdsdk.Segment]:
    segments, at = [], 0
    for size in sizes:
        segments += stream.feed(samples[at : at + size], rate)
        at += size
    segments += stream.feed(samples[at:], rate)
    return [*segments, *stream.finish()]


def rounded(segments: list[rdsdk.Segment]) -> list[tuple]:
    return [(s.text, s.start, s.end, [(w.text, w.start, w.end) for w in s.words]) for s in segments]


@pytest.mark.parametrize("gated", [False, True])
def test_one_sample_at_a_time_is_the_same_as_all_at_once(recognizer, gated):
    whole = fed(stream_of(recognizer, gated), PIN, [])
    single = fed(stream_of(recognizer, gated), PIN, [1] * len(PIN))
    assert rounded(single) == rounded(whole)
    assert len(" ".join(s.text for s in whole).split()) == 4


@pytest.mark.parametrize("gated", [False, True])
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 15_000), max_size=20))
def test_random_blocks_are_the_same_as_all_at_once(recognizer, gated, sizes):
    sound = np.concatenate([PIN, np.zeros(20_000, np.float32), PIN])
    whole = fed(stream_of(recognizer, gated), sound, [])
    assert rounded(fed(stream_of(recognizer, gated), sound, sizes)) == rounded(whole)
    assert [s.text for s in whole].count("") >= 1  # the silence between them is told


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_the_same_words_in_random_blocks_at_the_rates_of_devices(recognizer, rate):
    native = soxr.resample(PIN, 16_000, rate)
    rng = np.random.default_rng(rate)
    samples = np.round(np.clip(native, -1, 1) * 32_767).astype(np.int16)
    stereo = np.stack([samples, samples], axis=1)
    wanted = fed(stream_of(recognizer, False), PIN, [])
    whole = fed(stream_of(recognizer, False), stereo, [], rate)
    sizes = rng.integers(0, rate // 5, 12).tolist()
    assert rounded(fed(stream_of(recognizer, False), stereo, sizes, rate)) == rounded(whole)
    words, there = ([w for s in found for w in s.words] for found in (wanted, whole))
    assert [w.text for w in there] == [w.text for w in words]
    for one, other in zip(words, there, strict=True):
        assert other.start == pytest.approx(one.start, abs=0.041)


@pytest.mark.parametrize("gated", [False, True])
def test_two_threads_hear_what_each_alone_hears(recognizer, gated):
    sounds = [files.read(DIGITS / row["audio"]) for row in ROWS[:2]]
    alone = [rounded(fed(stream_of(recognizer, gated), s, [1_600] * 99)) for s in sounds]
    together: dict[int, list[tuple]] = {}
    start = threading.Barrier(2)

    def work(index: int) -> None:
        start.wait()
        stream = stream_of(recognizer, gated)
        together[index] = rounded(fed(stream, sounds[index], [1_600] * 99))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0], together[1]] == alone
    assert alone[0] != alone[1]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_streamed_word_times_are_those_of_the_whole_recording(recognizer, row):
    """Final equals offline, times included; in order and inside the sound, cut off anywhere."""
    waveform = files.read(DIGITS / row["audio"])
    offline = rounded(list(recognizer.transcribe((waveform, 16_000), RULES)))
    assert rounded(fed(stream_of(recognizer, False), waveform, [777] * 200)) == offline
    for length in np.linspace(400, len(waveform), 7).astype(int):
        segments = fed(stream_of(recognizer, False), waveform[:length], [])
        edges = [e for s in segments for e in (s.start, *_edges(s), s.end)]
        assert edges == sorted(edges)
        assert all(0 <= edge <= length / 16_000 for edge in edges)


def _edges(segment: rdsdk.Segment) -> list[float]:
    return [edge for word in segment.words for edge in (word.start, word.end)]
