import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.segmenter import Segmenter

VOCABULARY = Vocabulary(("_", "|", "A", "B", "C"))


def frames(path: str) -> np.ndarray:
    """log_probs whose likeliest symbols spell ``path``, one frame (20 ms) a character."""
    probabilities = np.full((len(path), 5), 0.025)
    for row, symbol in zip(probabilities, path, strict=True):
        row[VOCABULARY.symbols.index(symbol)] = 0.9
    return np.log(probabilities).astype(np.float32)


def segmenter(**rules: float) -> Segmenter:
    return Segmenter(GreedyDecoder(VOCABULARY), EndpointRules(**rules))


def test_a_segment_ends_after_the_silence_and_the_next_begins_with_its_word():
    texts = segmenter()
    (first,) = texts.feed(frames("AB|C" + 40 * "_"))
    assert (first.text, first.start, first.end, first.is_final) == ("AB C", 0.0, 0.08, True)
    assert texts.feed(frames("|B")) == []
    (second,) = texts.finish(1.0)
    assert (second.text, second.start) == ("B", 0.9)


def test_a_silence_one_frame_too_short_ends_nothing():
    texts = segmenter()
    assert texts.feed(frames("AB" + 39 * "_")) == []
    assert len(texts.feed(frames("_"))) == 1


def test_boundary_symbols_in_a_silence_do_not_prolong_the_segment():
    assert len(segmenter().feed(frames("AB" + 10 * "___|" + "_"))) == 1


def test_a_long_segment_ends_at_a_word_boundary():
    texts = segmenter(max_segment_seconds=0.2)
    (segment,) = texts.feed(frames("AB|" + "C_C_C_C_C_C" + "|" + "AB"))
    assert segment.text == "AB CCCCCC"
    (rest,) = texts.finish(1.0)
    assert rest.text == "AB"


def test_a_word_without_end_is_cut():
    texts = segmenter(max_segment_seconds=0.2)
    segments = texts.feed(frames("A_" * 50)) + texts.finish(2.0)
    assert len(segments) == 5
    assert "".join(segment.text for segment in segments) == 50 * "A"


def test_silence_alone_gives_nothing():
    texts = segmenter()
    assert texts.feed(frames("_|" * 100)) == []
    assert texts.partial() is None
    assert texts.finish(4.0) == []


def test_the_last_word_ends_with_the_recording():
    texts = segmenter()
    texts.feed(frames("_AB"))
    (segment,) = texts.finish(0.055)
    assert segment.end == segment.words[-1].end == 0.055


def test_a_partial_grows_and_its_finished_words_are_stable():
    texts = segmenter()
    texts.feed(frames("AB|C"))
    partial = texts.partial()
    assert partial is not None
    assert (partial.text, partial.stable, partial.is_final) == ("AB C", "AB", False)
    texts.feed(frames("A"))
    partial = texts.partial()
    assert partial is not None
    assert partial.text == "AB CA"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_portions_do_not_matter(size):
    log_probs = frames("AB|C" + 50 * "_" + "|B_B|A" + 45 * "_|" + "C")
    whole = segmenter()
    wanted = whole.feed(log_probs) + whole.finish(9.0)
    texts, got = segmenter(), []
    for at in range(0, len(log_probs), size):
        got += texts.feed(log_probs[at : at + size])
    assert got + texts.finish(9.0) == wanted
    assert len(wanted) == 3


def test_reset_forgets_the_open_segment():
    texts = segmenter()
    texts.feed(frames("AB|C"))
    texts.reset()
    assert texts.partial() is None
    assert texts.finish(1.0) == []


def test_so_long_without_a_word_is_a_segment_without_text():
    texts = segmenter(no_speech_seconds=0.5)
    assert texts.feed(frames(24 * "_")) == []
    (first,) = texts.feed(frames("_"))
    assert (first.text, first.words, first.stable) == ("", (), "")
    assert (first.start, first.end, first.is_final) == (0.0, 0.5, True)
    assert texts.partial() is None
    # Counting starts anew, and so it does where the last word ended.
    (second,) = texts.feed(frames(25 * "_"))
    assert (second.start, second.end) == (0.5, 1.0)
    (word,) = texts.feed(frames("_AB" + 40 * "_"))
    assert (word.text, word.end) == ("AB", 1.06)
    # It became final 0.8 s after its end, which is more than the half second already.
    (third,) = texts.feed(frames("_"))
    assert (third.text, third.start, third.end) == ("", 1.06, 1.88)


def test_a_word_that_is_being_said_is_no_silence():
    texts = segmenter(no_speech_seconds=0.5)
    assert texts.feed(frames(20 * "_" + "A" + 30 * "_" + "B" + 30 * "_")) == []
    assert [s.text for s in texts.feed(frames(10 * "_"))] == ["AB"]


def test_no_silence_is_told_unless_it_was_asked_for():
    assert segmenter().feed(frames(5000 * "_")) == []


def test_a_silence_does_not_go_on_beyond_the_end():
    texts = segmenter(no_speech_seconds=0.5)
    assert texts.feed(frames(30 * "_"), latest_seconds=0.49) == []
    texts.reset()
    (silence,) = texts.feed(frames(30 * "_"), latest_seconds=0.5)
    assert silence.end == 0.5


def test_a_segment_that_ends_in_the_silence_after_the_end_stays_inside():
    """A word heard late, in a frame after the last sample, whose rule fires there too."""
    texts = segmenter(trailing_silence_seconds=0.06)
    (segment,) = texts.feed(frames("____A_B___"), latest_seconds=0.09)
    assert (segment.start, segment.end) == (0.08, 0.09)
    assert segment.words[-1].end == 0.09


WHOLE_WORDS = Vocabulary(("_", "A", "B", "C", "D"), word_boundary=None)
LEXICON = Vocabulary(("_", "|", "A", "B", "C"), lexicon=("AB", "CAB", "C"))


@settings(max_examples=150, deadline=None)
@given(
    vocabulary=st.sampled_from([VOCABULARY, WHOLE_WORDS, LEXICON]),
    seed=st.integers(0, 2**31),
    length=st.integers(1, 400),
    blank=st.floats(0.0, 6.0),
    beyond=st.integers(0, 12),
    cut=st.floats(0.0, 1.0),
    sizes=st.lists(st.integers(0, 60), max_size=30),
    trailing=st.sampled_from([0.04, 0.2, 0.8]),
    longest=st.sampled_from([0.1, 0.5, 20.0]),
    silence=st.sampled_from([None, 0.02, 0.3, 2.0]),
)
def test_any_frames_give_times_in_order_and_inside_and_portions_do_not_matter(
    vocabulary, seed, length, blank, beyond, cut, sizes, trailing, longest, silence
):
    """Random log_probs; the recording ends anywhere in the last frames, as a stream's does."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (length, 5)) + blank * np.eye(5)[0]
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    real = max(1, length - beyond)
    seconds = 0.02 * (real - cut) if real > 1 or cut < 1 else 0.001
    rules = EndpointRules(trailing, longest, silence)

    whole = Segmenter(GreedyDecoder(vocabulary), rules)
    wanted = [*whole.feed(log_probs, seconds), *whole.finish(seconds)]

    texts, got, at = Segmenter(GreedyDecoder(vocabulary), rules), [], 0
    for size in [*sizes, length]:
        # Frames that end with the recording or before it are fed without knowing where it ends.
        known = math.inf if 0.02 * (at + size) <= seconds else seconds
        got += texts.feed(log_probs[at : at + size], known)
        at += size
    assert [*got, *texts.finish(seconds)] == wanted

    edges = [edge for s in wanted for edge in (s.start, s.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= seconds for edge in edges)
    for segment in wanted:
        assert segment.is_final
        assert segment.text == segment.stable == " ".join(word.text for word in segment.words)
        inner = [edge for word in segment.words for edge in (word.start, word.end)]
        assert inner == sorted(inner)
        if segment.words:
            assert (segment.start, segment.end) == (inner[0], inner[-1])
            assert all(0 <= word.confidence <= 1 for word in segment.words)
        else:
            assert silence is not None
            assert segment.end - segment.start >= silence - 1e-3
    if silence is not None:
        # Every stretch without words that is long enough is told, all of it.
        told = [0.0, *(s.end for s in wanted)]
        for before, segment in zip(told, wanted, strict=False):
            assert segment.start == before if not segment.words else segment.start >= before
