"""Batches: bounded, complete, the same on every run, resumable, and fit for CTC."""

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from lhotse.shar import SharWriter

from rdsdk.data.augment import Augmentation
from rdsdk.data.batch import Batch
from rdsdk.data.batches import TrainingBatches, evaluation_batches, training_batches
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import ConfigError, DataError

LETTERS = Vocabulary.characters()
CLIPS = 60
ALL = Augmentation(
    speed_probability=1.0,
    silence_probability=0.5,
    narrow_band_probability=0.5,
    gain_probability=1.0,
)

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


@pytest.fixture(scope="module")
def corpus(write: Write) -> CutSet:
    """Sixty clips of 0.2 to 1.4 s, in the order of their length as a sorted corpus would be."""
    return write(*((f"clip{index:02}", 0.2 + 0.02 * index, "AB A") for index in range(CLIPS)))


def make(cuts: CutSet, **settings: Any) -> TrainingBatches:
    standard: dict[str, Any] = {"batch_seconds": 5.0, "seed": 7}
    return training_batches(cuts, LETTERS, **{**standard, **settings})


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        a.ids == b.ids
        and torch.equal(a.waveforms, b.waveforms)
        and torch.equal(a.sample_counts, b.sample_counts)
        and torch.equal(a.tokens, b.tokens)
        for a, b in zip(left, right, strict=True)
    )


def ids(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


def test_a_batch_is_padded_with_zeros_and_says_where(write: Write) -> None:
    (batch,) = make(write(("short", 0.3, "AB"), ("long", 0.5, "A'B C"), ("mute", 0.4, "")))
    order = [batch.ids.index(name) for name in ("short", "long", "mute")]
    assert batch.waveforms.shape == (3, 8_000)
    assert (batch.waveforms.dtype, batch.tokens.dtype) == (torch.float32, torch.int64)
    assert batch.sample_counts[order].tolist() == [4_800, 8_000, 6_400]
    assert batch.token_counts[order].tolist() == [2, 5, 0]
    assert batch.tokens[order[1]].tolist() == LETTERS.encode("A'B C")
    assert [batch.texts[index] for index in order] == ["AB", "A'B C", ""]
    assert batch.frame_counts[order].tolist() == [14, 24, 19]
    for row, count in zip(batch.waveforms, batch.sample_counts.tolist(), strict=True):
        assert row[count - 1] != 0
        assert not row[count:].any()
    moved = batch.to("meta")
    assert moved.waveforms.is_meta
    assert moved.token_counts.is_meta
    assert moved.texts == batch.texts


def test_an_epoch_gives_every_utterance_once_within_the_bound(corpus: CutSet) -> None:
    batches = make(corpus)
    for _ in range(3):
        epoch = list(batches)
        assert len(epoch) == len(batches) > 5
        assert sorted(ids(epoch)) == [f"clip{index:02}" for index in range(CLIPS)]
        for batch in epoch:
            assert batch.waveforms.numel() <= 5.0 * 16_000


def test_utterances_of_a_batch_are_of_similar_length(corpus: CutSet) -> None:
    def padding(epoch: list[Batch]) -> float:
        total = sum(batch.waveforms.numel() for batch in epoch)
        return 1 - sum(int(batch.sample_counts.sum()) for batch in epoch) / total

    bucketed = padding(list(make(corpus)))
    shuffled = CutSet.from_cuts(np.random.default_rng(0).permutation(list(corpus)).tolist())
    unsorted = padding(list(evaluation_batches(shuffled, batch_seconds=5.0)))
    assert bucketed < 0.12 < unsorted


def test_epochs_differ_and_a_seed_repeats_them(corpus: CutSet) -> None:
    batches = make(corpus, augmentation=ALL)
    first, second = list(batches), list(batches)
    assert ids(first) != ids(second)
    assert same(list(make(corpus, augmentation=ALL)), first)
    assert not same(list(make(corpus, augmentation=ALL, seed=8)), first)
    by_epoch = make(corpus, augmentation=ALL)
    by_epoch.set_epoch(1)
    assert same(list(by_epoch), second)


def test_an_utterance_is_augmented_anew_each_epoch(corpus: CutSet) -> None:
    batches = make(corpus, augmentation=ALL)
    lengths = [
        dict(zip(ids(epoch), torch.cat([b.sample_counts for b in epoch]).tolist(), strict=True))
        for epoch in (list(batches), list(batches))
    ]
    changed = sum(lengths[0][name] != lengths[1][name] for name in lengths[0])
    assert changed > CLIPS * 0.9


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(corpus: CutSet, workers: int) -> None:
    alone = make(corpus, augmentation=ALL)
    shared = make(corpus, augmentation=ALL, workers=workers)
    for _ in range(2):
        assert same(list(shared), list(alone))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("seen", [0, 1, 4])
def test_an_interrupted_run_goes_on_bit_for_bit(corpus: CutSet, workers: int, seen: int) -> None:
    whole = make(corpus, augmentation=ALL)
    expected = [batch for _ in range(3) for batch in whole]

    interrupted = make(corpus, augmentation=ALL, workers=workers)
    epoch = list(interrupted)
    iterator = iter(interrupted)
    epoch += [next(iterator) for _ in range(seen)]
    state = json.loads(json.dumps(interrupted.state_dict()))

    resumed = make(corpus, augmentation=ALL, workers=workers)
    resumed.load_state_dict(state)
    epoch += list(resumed) + list(resumed)
    assert same(epoch, expected)


def test_the_state_after_the_last_batch_is_the_next_epoch(corpus: CutSet) -> None:
    batches = make(corpus)
    iterator = iter(batches)
    for _ in range(len(batches)):  # never asking for one more, as Lightning does
        next(iterator)
    assert (batches.state_dict()["epoch"], batches.state_dict()["batches"]) == (1, 0)
    batches.set_epoch(1)
    expected = make(corpus)
    expected.set_epoch(1)
    assert same(list(batches), list(expected))


def test_setting_the_current_epoch_keeps_the_place_and_another_leaves_it(corpus: CutSet) -> None:
    batches = make(corpus)
    iterator = iter(batches)
    next(iterator)
    batches.set_epoch(0)
    assert batches.state_dict()["batches"] == 1
    batches.set_epoch(2)
    assert (batches.state_dict()["epoch"], batches.state_dict()["batches"]) == (2, 0)


@pytest.mark.parametrize("change", [{"seed": 8}, {"batch_seconds": 4.0}, {"world_size": 2}])
def test_a_state_of_other_settings_starts_the_epoch_over_and_says_so(
    corpus: CutSet, change: dict[str, Any]
) -> None:
    state = {**make(corpus).state_dict(), "epoch": 1, "batches": 3}
    other = make(corpus, **change)
    with pytest.warns(UserWarning, match="epoch 1 starts over instead of going on at batch 3"):
        other.load_state_dict(state)
    assert (other.state_dict()["epoch"], other.state_dict()["batches"]) == (1, 0)


def test_a_state_of_other_utterances_starts_the_epoch_over(corpus: CutSet) -> None:
    state = {**make(corpus).state_dict(), "batches": 3}
    fewer = make(CutSet.from_cuts(list(corpus)[:-1]))
    with pytest.warns(UserWarning, match="starts over"):
        fewer.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(corpus).load_state_dict(state)  # its own is taken without a word
    with pytest.raises(DataError, match="a loader state has"):
        fewer.load_state_dict({"epoch": 1})


class Recorder(lightning.LightningModule):
    """Learns nothing; notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[str]] = []

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        self.seen.append(batch.ids)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(lightning.Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: lightning.Trainer, *others: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(
    ("where", "workers"), [("middle", 0), ("middle", 1), ("last batch", 0), ("second epoch", 0)]
)
def test_lightning_resumes_where_it_was_interrupted(
    corpus: CutSet, tmp_path: Path, where: str, workers: int
) -> None:
    def trainer(*callbacks: lightning.Callback) -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )

    length = len(make(corpus))
    step = {"middle": 3, "last batch": length, "second epoch": length + 2}[where]
    whole = Recorder()
    saved = tmp_path / "state.ckpt"
    trainer(SaveAt(step, saved)).fit(whole, make(corpus, workers=workers))
    assert len(whole.seen) == 2 * length
    resumed = Recorder()
    trainer().fit(resumed, make(corpus, workers=workers), ckpt_path=saved, weights_only=True)
    assert resumed.seen == whole.seen[step:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch_in_equal_numbers_of_batches(corpus: CutSet, world_size: int) -> None:
    ranks = [make(corpus, world_size=world_size, rank=rank) for rank in range(world_size)]
    shares = [list(rank) for rank in ranks]
    assert {len(share) for share in shares} == {len(ranks[0])}
    counts = Counter(name for share in shares for name in ids(share))
    assert set(counts) >= {f"clip{index:02}" for index in range(CLIPS)}
    assert max(counts.values()) == 1


def test_a_shar_source_is_trained_on_and_resumes(corpus: CutSet, tmp_path: Path) -> None:
    with SharWriter(str(tmp_path), fields={"recording": "flac"}, shard_size=25) as writer:
        for cut in corpus:
            writer.write(cut)
    lazy = read_cuts(tmp_path)
    batches = make(lazy, augmentation=ALL)
    with pytest.raises(TypeError, match="no known number"):
        len(batches)
    whole = [list(batches), list(batches)]
    for epoch in whole:
        assert sorted(ids(epoch)) == sorted(cut.id for cut in corpus)
    resumed = make(lazy, augmentation=ALL)
    resumed.load_state_dict({**batches.state_dict(), "epoch": 1, "batches": 2})
    assert same(list(resumed), whole[1][2:])


def test_quadratic_seconds_make_batches_of_long_utterances_smaller(corpus: CutSet) -> None:
    linear, quadratic = list(make(corpus)), list(make(corpus, quadratic_seconds=0.5))
    assert sorted(ids(quadratic)) == sorted(ids(linear))
    assert len(quadratic) > len(linear)
    for batch in quadratic:
        seconds = batch.waveforms.shape[1] / 16_000
        assert len(batch) == 1 or len(batch) * (seconds + seconds**2 / 0.5) <= 5.0 + 1e-6


def test_an_utterance_longer_than_a_batch_is_a_batch_of_its_own(write: Write) -> None:
    cuts = write(("short", 0.3, "A"), ("other", 0.3, "A"), ("long", 2.0, "A"))
    assert sorted(sorted(batch.ids) for batch in make(cuts, batch_seconds=1.0))[0] == ["long"]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_seconds": 0.0},
        {"quadratic_seconds": -1.0},
        {"rank": 1},
        {"world_size": 0},
        {"longest_seconds": 0.0},
        {"unencodable": "ignore"},
    ],
)
def test_impossible_settings_are_refused(corpus: CutSet, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(corpus, **settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_cannot_be_read_fails_as_a_data_error(write: Write, workers: int) -> None:
    cuts = write(("a", 0.5, "A"))
    Path(cuts[0].recording.sources[0].source).write_text("words")
    with pytest.raises(DataError, match="cannot be decoded"):
        list(make(cuts, workers=workers))


def test_evaluation_keeps_order_and_everything(write: Write) -> None:
    cuts = write(
        ("b", 0.5, "AB"), ("a", 0.3, ""), ("tiny", 0.02, "ABC"), ("c", 0.9, "C"), ("d", 0.2, "D")
    )
    batches = evaluation_batches(cuts, LETTERS, batch_seconds=1.6)
    for _ in range(2):
        epoch = list(batches)
        assert [batch.ids for batch in epoch] == [["b", "a", "tiny"], ["c"], ["d"]]
        assert len(batches) == len(epoch)
    assert epoch[0].texts == ["AB", "", "ABC"]
    assert epoch[0].token_counts.tolist() == [2, 0, 3]
    assert same(list(evaluation_batches(cuts, LETTERS, batch_seconds=1.6, workers=1)), epoch)
    with pytest.raises(ConfigError, match="batch_seconds"):
        evaluation_batches(cuts, batch_seconds=0)
