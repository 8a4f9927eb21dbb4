"""Viterbi training: where phones are, by what a model says, inside the words' own times."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rdsdk.data import phones
from rdsdk.data.alignment import frame_targets
from rdsdk.data.augment import Timing
from rdsdk.data.manifest import read_cuts
from rdsdk.decoding.vocabulary import Vocabulary
from rdsdk.errors import DataError
from rdsdk.models import checkpoint, tdnn
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.models.tdnn import Tdnn, TdnnCheckpoint, TdnnConfig
from rdsdk.training.realignment import align_word, align_words, best_path, main

SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "manifest.jsonl"


def says(*symbols: int, count: int = 5, sure: float = 0.9) -> np.ndarray:
    """log_probs (T, V) of a model that hears ``symbols``, one a frame."""
    probabilities = np.full((len(symbols), count), (1 - sure) / (count - 1))
    probabilities[np.arange(len(symbols)), symbols] = sure
    return np.log(probabilities)


def exhaustive(scores: np.ndarray, symbols: tuple[int, ...]) -> float:
    """The best score of all ways to divide the frames among the symbols."""
    if len(symbols) == 1:
        return float(scores[:, symbols[0]].sum())
    return max(
        float(scores[:cut, symbols[0]].sum()) + exhaustive(scores[cut:], symbols[1:])
        for cut in range(1, len(scores) - len(symbols) + 2)
    )


def test_phones_are_where_the_model_hears_them():
    score, starts = best_path(says(1, 1, 1, 2, 3, 3), (1, 2, 3))
    assert starts == [0, 3, 4]
    assert score == pytest.approx(6 * np.log(0.9))


@pytest.mark.parametrize("seed", range(20))
def test_the_best_path_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 9))
    symbols = tuple(int(s) for s in rng.integers(0, 4, rng.integers(1, length + 1)))
    scores = rng.normal(size=(length, 4))
    score, starts = best_path(scores, symbols)
    assert score == pytest.approx(exhaustive(scores, symbols))
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    path = np.repeat(symbols, np.diff([*starts, length]))
    assert score == pytest.approx(scores[np.arange(length), path].sum())


def test_the_way_that_was_said_is_taken_and_a_short_word_cut_off():
    heard = says(1, 2, 2, 4)
    assert align_word(heard, [(1, 3, 4), (1, 2, 4)]) == [(1, 0), (2, 1), (4, 3)]
    assert align_word(heard[:2], [(1, 3, 4, 1), (1, 2, 4)]) == [(1, 0), (2, 1)]


def test_words_keep_their_times_and_frames_their_phones(tmp_path):
    heard = says(0, 1, 1, 2, 0, 0, 3, 4, 4, 0)
    words = [("AB", 0.02, 0.08), ("CD", 0.12, 0.18)]
    ways = {"AB": [(1, 2)], "CD": [(3, 4)]}
    vocabulary = Vocabulary.words(["a", "b", "c", "d"])
    alignment = align_words(heard, words, ways)
    assert [symbol for symbol, _, _ in alignment] == [1, 2, 3, 4]
    named = [(vocabulary.symbols[symbol], start, end) for symbol, start, end in alignment]
    row = {"id": "a", "audio": "a.wav", "seconds": 0.205, "text": "a b c d", "alignment": named}
    assert targets_of(row, vocabulary, 10, tmp_path) == [0, 1, 1, 2, 0, 0, 3, 4, 4, 0]
    with pytest.raises(DataError, match="'EF' has no pronunciation"):
        align_words(heard, [("EF", 0.0, 0.1)], ways)


def targets_of(row, vocabulary, frames, folder):
    soundfile.write(folder / "a.wav", np.zeros(3280, np.float32), 16_000)
    path = folder / "one-row.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (cut,) = read_cuts(path)
    return frame_targets(cut, vocabulary, frames, Timing()).tolist()


def test_words_that_touch_or_leave_no_frame_stay_in_order():
    heard = says(*[1] * 6)
    words = [("A", 0.0, 0.03), ("A", 0.03, 0.035), ("A", 0.035, 0.5)]
    alignment = align_words(heard, words, {"A": [(1, 1)]})
    edges = [edge for _, start, end in alignment for edge in (start, end)]
    assert edges == sorted(edges)
    assert edges[-1] <= 6 * 0.02 + 0.0125


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phones")
    arguments = ["--train", str(SPEECH), "--dev", str(SPEECH), "--out", str(folder)]
    assert phones.main([*arguments, "--workers", "1"]) == 0
    return folder


@pytest.fixture(params=["student", "teacher"])
def model(request, tmp_path):
    vocabulary = Vocabulary.words(phones.PHONES)
    torch.manual_seed(0)
    if request.param == "teacher":
        made = Tdnn(TdnnConfig(32, 16, 1, (1, 1), 2, 20), symbols=len(vocabulary)).eval()
        return tdnn.save(tmp_path / "model", TdnnCheckpoint(made, vocabulary, {}))
    student = Student(preset("tiny"), symbols=len(vocabulary)).eval()
    return checkpoint.save(tmp_path / "model", Checkpoint(student, vocabulary, {}))


def test_a_corpus_is_aligned_anew(corpus, model, capsys):
    assert main([str(model), str(corpus / "train.jsonl"), str(corpus / "dev.jsonl")]) == 0
    assert "train-realigned.jsonl" in capsys.readouterr().err
    old, new = (
        [json.loads(line) for line in (corpus / name).read_text().splitlines()]
        for name in ("train.jsonl", "train-realigned.jsonl")
    )
    assert {row["id"] for row in old} == {row["id"] for row in new}
    assert len(read_cuts(corpus / "train-realigned.jsonl")) == len(old)
    before = {row["id"]: row for row in old}
    moved = 0
    for row in new:
        was = before[row["id"]]
        assert {k: v for k, v in row.items() if k not in ("text", "alignment")} == {
            k: v for k, v in was.items() if k not in ("text", "alignment")
        }
        assert row["text"].split() == [phone for phone, _, _ in row["alignment"]]
        moved += row["alignment"] != was["alignment"]
        # Words stay where they were, to half a frame.
        starts, ends = (np.array([x[k] for x in row["alignment"]]) for k in (1, 2))
        gaps = starts[1:] - ends[:-1]
        assert (gaps > -1e-6).all()
        assert abs(starts[0] - was["alignment"][0][1]) < 0.03
        assert abs(ends[-1] - was["alignment"][-1][2]) < 0.03
    assert moved == len(new)


def test_what_is_missing_is_told(corpus, model, tmp_path, capsys):
    moved = shutil.copytree(corpus, tmp_path / "moved")
    (moved / "word_spans.jsonl").unlink()
    assert main([str(model), str(moved / "train.jsonl")]) == 2
    assert "word_spans.jsonl" in capsys.readouterr().err
    assert main([str(model), str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert main([str(model), str(corpus / "train.jsonl"), "--spans", str(empty)]) == 2
    assert "has no words for" in capsys.readouterr().err
