"""Alignments: read, refused, and made into a target for each frame, augmentation and all."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from rdsdk.data.alignment import PADDING, alignment_problem, frame_targets, is_aligned
from rdsdk.data.augment import Augmentation, Timing
from rdsdk.data.batches import training_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

WORDS = Vocabulary.words(["AH", "S"])
SPOKEN = [["AH", 0.1, 0.3], ["S", 0.3, 0.5]]


def write(folder: Path, alignments: list[object], waveform: np.ndarray) -> Path:
    rows = []
    for index, alignment in enumerate(alignments):
        soundfile.write(folder / f"{index}.wav", waveform, 16_000)
        row = {"id": f"clip{index}", "audio": f"{index}.wav", "seconds": len(waveform) / 16_000}
        rows.append(
            {**row, "text": "AH S"} | ({} if alignment is None else {"alignment": alignment})
        )
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture
def cuts(tmp_path: Path) -> CutSet:
    """One aligned utterance in which "S" is loud, one that is not aligned."""
    waveform = np.zeros(10_000, np.float32)
    waveform[4_800:8_000] = 0.5 * np.sin(np.arange(3_200))
    return read_cuts(write(tmp_path, [SPOKEN, None], waveform))


def test_a_frame_belongs_to_the_symbol_at_its_centre(cuts: CutSet) -> None:
    aligned, plain = cuts
    assert is_aligned(aligned)
    assert not is_aligned(plain)
    targets = frame_targets(aligned, WORDS, 31, Timing()).tolist()
    # Frame t is centred on 0.02 t + 0.0125 s.
    centres = [0.02 * t + 0.0125 for t in range(31)]
    assert targets == [1 if 0.1 <= c < 0.3 else 2 if 0.3 <= c < 0.5 else 0 for c in centres]
    assert frame_targets(plain, WORDS, 4, Timing()).tolist() == [PADDING] * 4


def test_targets_move_with_the_sound(cuts: CutSet) -> None:
    aligned = next(iter(cuts))
    still = frame_targets(aligned, WORDS, 31, Timing())
    later = frame_targets(aligned, WORDS, 41, Timing(start=0.2))
    assert torch.equal(later, torch.cat([torch.zeros(10, dtype=torch.int64), still]))
    halved = frame_targets(aligned, WORDS, 15, Timing(speed=2.0))
    assert (halved == 2).sum() == 5


def test_batches_carry_targets_that_fit_the_augmented_sound(cuts: CutSet) -> None:
    moved = Augmentation(speed=(0.6, 1.6), speed_probability=1.0, silence_probability=1.0)
    missed = 0
    for epoch in range(4):
        batches = training_batches(cuts, WORDS, 5.0, seed=epoch, augmentation=moved)
        (batch,) = batches
        assert batch.frame_targets is not None
        assert batch.frame_targets.shape == (2, int(batch.frame_counts.max()))
        row, other = batch.ids.index("clip0"), batch.ids.index("clip1")
        assert (batch.frame_targets[other] == PADDING).all()
        loud = batch.waveforms[row].abs().unfold(0, 400, 320)[:, 160:240].amax(dim=1) > 0.1
        count = int(batch.frame_counts[row])
        said = batch.frame_targets[row, :count] == 2
        assert (loud[:count] != said).sum() <= 2
        assert said.any()
        unmoved = frame_targets(next(iter(cuts)), WORDS, count, Timing()) == 2
        missed += int((loud[:count] != unmoved).sum())
    # Negative control: targets that had not moved with the sound would be elsewhere.
    assert missed > 20


def test_without_alignments_there_are_no_targets(tmp_path: Path) -> None:
    cuts = read_cuts(write(tmp_path, [None], np.zeros(8_000, np.float32)))
    (batch,) = training_batches(cuts, WORDS, 5.0)
    assert batch.frame_targets is None


def test_a_symbol_outside_the_vocabulary_is_refused(cuts: CutSet) -> None:
    with pytest.raises(ConfigError, match="AH"):
        frame_targets(next(iter(cuts)), Vocabulary.words(["S"]), 31, Timing())


@pytest.mark.parametrize(
    "alignment",
    [
        "AH S",
        [["AH", 0.1]],
        [["AH", 0.3, 0.1]],
        [["AH", 0.3, 0.4], ["S", 0.2, 0.5]],
        [[1, 0.1, 0.2]],
        [["AH", "now", 0.2]],
        [["AH", 0.1, float("nan")]],
    ],
)
def test_a_bad_alignment_is_refused_with_its_line(tmp_path: Path, alignment: object) -> None:
    manifest = write(tmp_path, [SPOKEN, alignment], np.zeros(8_000, np.float32))
    with pytest.raises(DataError, match=r"line 2 .*alignment must be"):
        read_cuts(manifest)


def test_a_good_alignment_has_no_problem() -> None:
    assert alignment_problem(SPOKEN) is None
    assert alignment_problem(None) is None
