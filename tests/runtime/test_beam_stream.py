"""Beam search where a user meets it: segments, streams, recognisers, the bundled model."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from feeding import hear, rounded
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_program import SAMPLE_RATE, tones

import rdsdk
from rdsdk.decoding.decoder import new_decoder
from rdsdk.decoding.greedy import GreedyDecoder
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.runtime.endpoint import EndpointRules
from rdsdk.runtime.segmenter import Segmenter

SPEECH = tones("ABC DE" + 10 * "_" + "F GH" + 12 * "_" + "AB CA")
TEXTS = ["ABC DE", "F GH", "AB CA"]
ASSETS = Path(__file__).parents[1] / "assets"
MANIFEST = ASSETS / "digits" / "manifest.jsonl"
DATE = ASSETS / "digits" / "theo-date.flac"
PIN = ASSETS / "digits" / "theo-pin.flac"

LETTERS = Vocabulary(("_", "|", "A", "B", "C"))
WHOLE_WORDS = Vocabulary(("_", "A", "B", "C", "D"), word_boundary=None)
LEXICON = Vocabulary(("_", "|", "A", "B", "C"), lexicon=("AB", "CAB", "C"))
BEAM = rdsdk.BeamSettings(beam_size=12)


@pytest.fixture(scope="module")
def recognizer(streaming_pte) -> rdsdk.Recognizer:
    return rdsdk.load(streaming_pte)


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.sampled_from([LETTERS, WHOLE_WORDS, LEXICON]),
    seed=st.integers(0, 2**31),
    length=st.integers(1, 400),
    blank=st.floats(0.0, 6.0),
    cut=st.floats(0.0, 1.0),
    sizes=st.lists(st.integers(0, 60), max_size=30),
    trailing=st.sampled_from([0.04, 0.2, 0.8]),
    longest=st.sampled_from([0.1, 0.5, 20.0]),
    silence=st.sampled_from([None, 0.02, 0.3, 2.0]),
)
def test_any_frames_give_times_in_order_and_inside_and_portions_do_not_matter(
    vocabulary, seed, length, blank, cut, sizes, trailing, longest, silence
):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (length, 5)) + blank * np.eye(5)[0]
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    seconds = 0.02 * (length - cut) if length > 1 or cut < 1 else 0.001
    rules = EndpointRules(trailing, longest, silence)

    whole = Segmenter(new_decoder(vocabulary, beam=BEAM), rules)
    wanted = [*whole.feed(log_probs, seconds), *whole.finish(seconds)]
    texts, got, at = Segmenter(new_decoder(vocabulary, beam=BEAM), rules), [], 0
    for size in [*sizes, length]:
        known = math.inf if 0.02 * (at + size) <= seconds else seconds
        got += texts.feed(log_probs[at : at + size], known)
        texts.partial()  # asking changes nothing
        at += size
    assert [*got, *texts.finish(seconds)] == wanted

    edges = [edge for s in wanted for edge in (s.start, s.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= seconds for edge in edges)
    for segment in wanted:
        assert segment.is_final
        inner = [edge for word in segment.words for edge in (word.start, word.end)]
        assert inner == sorted(inner)
        if segment.words:
            assert (segment.start, segment.end) == (inner[0], inner[-1])
        else:
            assert silence is not None


@pytest.mark.parametrize("longest", [0.3, 1.0, 20.0])
def test_segments_of_sure_frames_are_the_greedy_ones(longest):
    """Endpoints, cuts, times and confidences: the same rules meet the same words."""
    said = ["_" if c == " " else c for c in "AB|C" + 50 * " " + "|BC_BA|A" + 45 * " " + "CACA|B"]
    probabilities = np.full((len(said), 5), 0.0005)
    for row, symbol in zip(probabilities, said, strict=True):
        row[LETTERS.symbols.index(symbol)] = 0.998
    log_probs = np.log(probabilities).astype(np.float32)
    rules = EndpointRules(max_segment_seconds=longest)
    results = []
    for decoder in (GreedyDecoder(LETTERS), new_decoder(LETTERS, beam=BEAM)):
        texts = Segmenter(decoder, rules)
        results.append([*texts.feed(log_probs), *texts.finish(9.0)])
    assert results[0] == results[1]
    assert len(results[0]) >= 3


@pytest.mark.parametrize("beam", [BEAM, rdsdk.BeamSettings(beam_size=1)])
def test_a_beam_hears_what_is_clearly_said(recognizer, beam):
    stream = recognizer.stream(beam=beam)
    offline = hear(stream, SPEECH)
    assert [segment.text for segment in offline] == TEXTS
    assert rounded(offline) == rounded(hear(recognizer.stream(), SPEECH))
    for size in (160, 1234):
        sizes = (size,) * (len(SPEECH) // size)
        assert rounded(hear(recognizer.stream(beam=beam), SPEECH, sizes)) == rounded(offline)


def test_partials_grow_and_what_was_stable_stays(recognizer):
    stream, events = recognizer.stream(beam=BEAM), []
    for at in range(0, len(SPEECH), 800):
        events += stream.feed(SPEECH[at : at + 800])
    events += stream.finish()
    assert [event.text for event in events if event.is_final] == TEXTS
    assert any(not event.is_final and " " in event.text for event in events)
    for before, after in itertools.pairwise(events):
        if not before.is_final:
            assert after.text.startswith(before.stable)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"hotwords": "Rdsdk"}, r"hotwords=\['Rdsdk'\]"),
        ({"hotwords": [" "]}, "' ' is no word"),
        ({"hotwords": [7]}, "7 is no word"),
        ({"beam": "beam"}, "expected BeamSettings, 'greedy' or None"),
        ({"beam": 50}, "expected BeamSettings, 'greedy' or None"),
    ],
)
def test_settings_of_a_wrong_kind_are_refused(recognizer, settings, says):
    with pytest.raises(rdsdk.ConfigError, match=says):
        recognizer.stream(**settings)


def test_hotwords_alone_start_a_search(recognizer):
    """Half of the frames of a sound are cut off, so that it is heard as two letters alike."""
    mixed = 0.52 * tones("A") + 0.48 * tones("B")
    said = np.concatenate([tones("CA"), mixed, tones("_" * 12)])
    heard = {
        word: [s.text for s in hear(recognizer.stream(hotwords=[word]), said)]
        for word in ("CAA", "CAB", "HHH")
    }
    plain = [s.text for s in hear(recognizer.stream(), said)]
    assert heard["HHH"] == plain
    assert {heard["CAA"][0], heard["CAB"][0]} == {"CAA", "CAB"}


@pytest.fixture(scope="module")
def digits() -> rdsdk.Recognizer:
    return rdsdk.load("digits")


def said(recognizer: rdsdk.Recognizer, path: Path, **how: object) -> str:
    return " ".join(s.text for s in recognizer.transcribe(path, **how))  # type: ignore[arg-type]


def test_the_bundled_digits_are_searched_by_their_words(digits):
    for row in map(json.loads, MANIFEST.open()):
        path = ASSETS / "digits" / row["audio"]
        assert said(digits, path, beam=BEAM) == said(digits, path) != ""
    with pytest.raises(rdsdk.ConfigError, match="'Rdsdk' cannot be written"):
        digits.stream(hotwords=["Rdsdk"])


def test_hotwords_correct_real_speech_and_invent_nothing(digits):
    """A number in which a digit is missed, by someone who is expected to say it."""
    rows = {r["audio"]: r["text"] for r in map(json.loads, MANIFEST.open())}
    # Its nine is nearly a six: which of them is heard depends on how a processor rounds.
    heard = said(digits, DATE).replace("ONE SIX", "ONE NINE")
    assert heard == "TWO FOUR ZERO SIX ONE NINE EIGHT"
    expected = said(digits, DATE, hotwords=["nine", "five"])
    assert expected == rows[DATE.name] == "TWO FOUR ZERO SIX ONE NINE EIGHT FIVE"
    # Where nobody says them, the same hotwords change nothing: another number, and read English.
    assert "NINE" not in rows[PIN.name]
    assert said(digits, PIN, hotwords=["nine", "five"]) == said(digits, PIN)
    for path in sorted((ASSETS / "speech").glob("*.flac")):
        assert said(digits, path, hotwords=["nine", "five"]) == ""


def test_the_front_door_takes_a_beam_and_hotwords(streaming_pte):
    heard = rdsdk.transcribe(
        (SPEECH, SAMPLE_RATE), model=rdsdk.load(streaming_pte), beam=BEAM, hotwords=["gh"]
    )
    assert [segment.text for segment in heard] == TEXTS
