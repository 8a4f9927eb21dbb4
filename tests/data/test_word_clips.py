"""Words are found in real speech, and only digit words that stand up alone are trusted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rdsdk.data.word_clips import (
    SAMPLE_RATE,
    Aligner,
    WordSpan,
    cut,
    find_words,
    free_of_digits,
    read_mono,
    trusted_digits,
)
from rdsdk.errors import ConfigError, DataError

SPEECH = Path(__file__).parents[1] / "assets" / "speech"
ROWS = [json.loads(line) for line in (SPEECH / "manifest.jsonl").read_text().splitlines()]


def test_every_word_of_a_real_sentence_is_found_in_order_and_apart() -> None:
    for row, words in zip(ROWS, find_words(ROWS, SPEECH, workers=1), strict=True):
        assert words is not None
        assert [span.word for span in words.spans] == row["text"].split()
        edges = [edge for span in words.spans for edge in (span.start, span.end)]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= row["seconds"] + 0.02
        assert words.trusted == ()


def test_words_are_loud_and_the_pause_before_them_is_not() -> None:
    row = ROWS[0]
    waveform = read_mono(SPEECH / row["audio"])
    spans = Aligner().align(row["id"], waveform, row["text"])
    assert spans is not None
    before = waveform[: int(spans[0].start * SAMPLE_RATE)]
    spoken = [cut(waveform, span, 0.0) for span in spans]
    assert len(before) > 800
    loudness = [float(np.sqrt((piece**2).mean())) for piece in spoken]
    assert min(loudness) > 3 * float(np.sqrt((before**2).mean()))


def test_a_transcript_of_words_unknown_to_the_dictionary_does_not_align() -> None:
    waveform = read_mono(SPEECH / ROWS[0]["audio"])
    assert Aligner().align("a", waveform, "DURING XQZZT") is None
    assert Aligner().align("a", waveform, "") is None


def test_a_digit_word_is_trusted_only_where_it_is_heard() -> None:
    aligner = Aligner()
    row = ROWS[0]
    waveform = read_mono(SPEECH / row["audio"])
    spans = aligner.align(row["id"], waveform, row["text"])
    assert spans is not None
    # The same times under another name: what sounds there is not that digit.
    lies = [WordSpan(s.utterance, "SEVEN", s.start, s.end, s.score) for s in spans]
    assert trusted_digits(aligner, waveform, lies) == ()
    heard = aligner.hears(cut(waveform, spans[0]))
    assert heard != "SEVEN"


def test_a_missing_aligner_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigError, match="pip install pocketsphinx"):
        Aligner()


def test_cutting_takes_the_margin_and_stops_at_the_ends() -> None:
    waveform = np.arange(SAMPLE_RATE, dtype=np.float32)
    middle = cut(waveform, WordSpan("a", "ONE", 0.25, 0.5, 0.0), 0.02)
    assert (middle[0], middle[-1]) == (0.23 * SAMPLE_RATE, 0.52 * SAMPLE_RATE - 1)
    assert len(cut(waveform, WordSpan("a", "ONE", 0.0, 1.0, 0.0), 0.02)) == SAMPLE_RATE


def test_digit_words_are_seen_whole_and_with_an_ending_but_not_inside_words() -> None:
    assert free_of_digits(["SOMEONE", "WENT", "FOR", "SEVENTY", "OFTEN"])
    for word in ("ONE", "ONE'S", "TWOS", "SIXES", "ZERO"):
        assert not free_of_digits(["THE", word])


def test_recordings_become_mono_16_khz(tmp_path: Path) -> None:
    stereo = np.stack([np.full(8000, 0.2), np.full(8000, 0.4)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000)
    waveform = read_mono(tmp_path / "a.wav")
    assert waveform.dtype == np.float32
    assert len(waveform) == SAMPLE_RATE
    assert waveform[4000:12000].mean() == pytest.approx(0.3, abs=0.001)


@pytest.mark.parametrize("content", [None, b"no sound at all"])
def test_what_is_no_recording_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*a\.wav"):
        read_mono(path)
