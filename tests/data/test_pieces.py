"""Pieces of utterances: nothing is lost or said twice, and targets stay where they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from rdsdk.data.alignment import SYMBOLS, frame_targets
from rdsdk.data.augment import Timing
from rdsdk.data.manifest import read_cuts, transcript
from rdsdk.data.pieces import in_pieces
from rdsdk.data.waveform import load_waveform
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError

VOCABULARY = Vocabulary.words(["A", "B", "C"])
SECONDS = 10.0


@pytest.fixture
def cuts(tmp_path: Path) -> CutSet:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.flac", rng.uniform(-0.5, 0.5, int(SECONDS * 16_000)), 16_000)
    symbols = [str(symbol) for symbol in rng.choice(["A", "B", "C"], 36)]
    times = np.sort(rng.uniform(0.2, 9.8, 72).round(2))
    alignment = [[s, times[2 * n], times[2 * n + 1]] for n, s in enumerate(symbols)]
    row = {"id": "a", "audio": "a.flac", "seconds": SECONDS, "text": " ".join(symbols)}
    rows = [
        row | {"alignment": alignment},
        row | {"id": "untold"},
        row | {"id": "letters", "alignment": alignment, "text": "".join(symbols)},
    ]
    manifest = tmp_path / "cuts.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_cuts(manifest)


def test_pieces_are_the_whole_cut_between_symbols(cuts: CutSet) -> None:
    whole = cuts["a"]
    pieces = [cut for cut in in_pieces(cuts, 3.0) if cut.id.startswith("a#")]
    assert [cut.id for cut in pieces] == ["a#1", "a#2", "a#3", "a#4"]
    assert " ".join(str(transcript(cut)) for cut in pieces) == transcript(whole)
    waveform = np.concatenate([load_waveform(cut) for cut in pieces])
    np.testing.assert_array_equal(waveform, load_waveform(whole))
    assert max(cut.duration for cut in pieces) < 3.5
    frames, at = round(SECONDS * 50), 0.0
    expected = frame_targets(whole, VOCABULARY, frames, Timing())
    starts = [item.start for item in whole.supervisions[0].alignment[SYMBOLS]]
    for cut in pieces:
        assert at == 0 or min(abs(start - at) for start in starts) < 1e-6
        found = frame_targets(cut, VOCABULARY, round(cut.duration * 50), Timing())
        first = round(at * 50)
        there = expected[first : first + len(found)]
        # Frames of a piece lie between those of the whole: half a frame at each edge of a symbol.
        assert (found[: len(there)] == there).float().mean() > 0.75
        assert set(torch.unique_consecutive(found).tolist()) > {0}
        at += cut.duration


def test_what_cannot_be_told_apart_stays_whole(cuts: CutSet) -> None:
    made = {cut.id: cut for cut in in_pieces(cuts, 3.0)}
    assert made["untold"].duration == made["letters"].duration == SECONDS
    assert [cut.id for cut in in_pieces(cuts, 10.0)] == ["a", "untold", "letters"]
    with pytest.raises(ConfigError, match="above 0"):
        in_pieces(cuts, 0.0)
