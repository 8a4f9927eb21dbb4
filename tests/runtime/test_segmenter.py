import numpy as np
import pytest

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
