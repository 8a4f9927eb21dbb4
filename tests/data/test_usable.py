"""What is left out of training, and that what is handed out fits its frames under CTC."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from rdsdk.data.augment import Augmentation
from rdsdk.data.batch import Batch, frame_count, frames_needed
from rdsdk.data.batches import TrainingBatches, training_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError

LETTERS = Vocabulary.characters()

Write = Callable[..., CutSet]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """(id, seconds, text) of each clip -> cuts of noise that differs from clip to clip."""

    def written(*clips: tuple[str, float, str | None]) -> CutSet:
        folder = tmp_path_factory.mktemp("clips")
        rows = []
        for index, (name, seconds, text) in enumerate(clips):
            samples = np.random.default_rng(index).normal(0, 0.1, round(seconds * 16_000))
            soundfile.write(folder / f"{name}.wav", samples, 16_000)
            rows.append({"id": name, "audio": f"{name}.wav", "seconds": seconds, "text": text})
        (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_cuts(folder / "clips.jsonl")

    return written


def make(cuts: CutSet, **settings: Any) -> TrainingBatches:
    standard: dict[str, Any] = {"batch_seconds": 5.0, "seed": 7}
    return training_batches(cuts, LETTERS, **{**standard, **settings})


def ids(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (79, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)]
)
def test_frames_follow_the_extractor(samples: int, frames: int) -> None:
    assert frame_count(samples) == frames
    assert frame_count(torch.tensor([samples])).tolist() == [frames]


def test_ctc_needs_exactly_the_frames_counted() -> None:
    # torch's own loss says what is feasible: finite at the count, infinite one frame below.
    for text in ("A", "AB", "AA", "HELLO", "AAA BB"):
        tokens = LETTERS.encode(text)
        needed = frames_needed(tokens)
        for frames, finite in ((needed, True), (needed - 1, False)):
            if frames == 0:
                continue
            log_probs = torch.zeros(frames, 1, len(LETTERS)).log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(
                log_probs, torch.tensor([tokens]), (frames,), (len(tokens),)
            )
            assert bool(torch.isfinite(loss)) is finite


def test_utterances_too_short_for_their_text_are_left_out_and_counted(write: Write) -> None:
    # 24 frames in half a second: 24 letters fit; 23 with a repeat fit, 24 with a repeat do not.
    fits, repeats = "ABCDEFGHIJKLMNOPQRSTUVWX", "AACDEFGHIJKLMNOPQRSTUVWX"
    cuts = write(
        ("fits", 0.5, fits),
        ("repeat", 0.5, repeats[:-1]),
        ("full", 0.5, repeats),
        ("tiny", 0.02, ""),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = make(cuts)
        epochs = [ids(list(batches)), ids(list(batches))]
    assert [sorted(epoch) for epoch in epochs] == [["fits", "repeat"]] * 2
    said = [str(item.message) for item in caught if "left out" in str(item.message)]
    assert said == ["2 of 4 utterances left out: 2 too short for their text"]


def test_what_is_handed_out_stays_feasible_after_speeding_up(write: Write) -> None:
    cuts = write(*((f"full{index}", 0.5, "ABCDEFGHIJKLMNOPQRSTUVWX") for index in range(20)))
    fast = Augmentation(speed=(1.5, 2.0), speed_probability=1.0)
    for batch in make(cuts, augmentation=fast):
        assert (batch.frame_counts >= 24).all()
    slack = write(("slack", 1.0, "A"))
    (batch,) = make(slack, augmentation=fast)
    assert int(batch.sample_counts) < 16_000 / 1.45  # where there is room, it is sped up


def test_long_utterances_are_left_out_and_counted(write: Write) -> None:
    cuts = write(("at", 0.5, "A"), ("over", 0.52, "A"), ("under", 0.4, "A"))
    with pytest.warns(UserWarning, match="1 of 3 utterances left out: 1 too long"):
        batches = make(cuts, longest_seconds=0.5)
    assert sorted(ids(list(batches))) == ["at", "under"]


def test_text_outside_the_vocabulary_is_an_error_that_names_it_or_dropped(write: Write) -> None:
    cuts = write(("good", 0.5, "AB"), ("bad", 0.5, "A1É"))
    with pytest.raises(DataError, match=r"the text of bad .*\['1', 'É'\].*unencodable"):
        make(cuts)
    with pytest.warns(UserWarning, match="1 of 2 utterances left out: 1 not in the vocabulary"):
        batches = make(cuts, unencodable="drop")
    assert ids(list(batches)) == ["good"]


def test_unlabelled_recordings_need_no_vocabulary_and_no_other_way(write: Write) -> None:
    cuts = write(("told", 0.5, "AB"), ("untold", 0.5, None))
    with pytest.raises(DataError, match="untold has no transcript"):
        make(cuts)
    (batch,) = training_batches(cuts, None, batch_seconds=5.0)
    assert batch.tokens.shape == (2, 0)
    assert batch.token_counts.tolist() == [0, 0]
    assert sorted(batch.texts) == ["", "AB"]


def test_nothing_usable_is_an_error_that_counts(write: Write) -> None:
    cuts = write(("tiny", 0.02, "A"), ("full", 0.1, "ABCDEFGH"))
    with pytest.raises(DataError, match=r"none of 2 utterances .*2 too short"):
        make(cuts)
