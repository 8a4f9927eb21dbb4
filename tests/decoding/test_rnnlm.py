"""The runtime's loader of recurrent language models: calls of any size, and files it refuses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdsdk.decoding.rnnlm import RnnLm, State, load_rnnlm
from rdsdk.errors import ModelError
from rdsdk.runtime.artefact import SEAL, seal
from tests.models.tiny_rnnlm import WORDS, tiny_rnnlm


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mobile_export.rnnlm import export_rnnlm
    from rdsdk.models import rnnlm

    folder = rnnlm.save(tmp_path_factory.mktemp("rnnlm"), tiny_rnnlm(), {})
    return export_rnnlm(folder, folder / "tiny.rnnlm", "fp32").path


@pytest.fixture(scope="module")
def model(path: Path) -> RnnLm:
    return RnnLm(path)


def test_words_and_their_numbers(model: RnnLm) -> None:
    assert model.words == WORDS
    assert (model.end, model.unknown) == (0, 1)
    assert [model.index(word) for word in ("</s>", "WORD0", "WORD57", "NEVER")] == [0, 2, 59, 1]


def test_a_call_of_any_size_is_its_parts(model: RnnLm) -> None:
    assert model.advance([], []) == []
    words = [number % len(WORDS) for number in range(150)]
    states = [state for state, _ in model.advance(words, [model.fresh()] * 150)]
    together = model.advance(words[::-1], states)
    for at in (0, 63, 64, 149):
        ((state, log_probs),) = model.advance([words[::-1][at]], [states[at]])
        np.testing.assert_allclose(together[at][1], log_probs, atol=1e-4)
        np.testing.assert_allclose(together[at][0].hidden, state.hidden, atol=1e-5)
        assert log_probs.shape == (60,)
        assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-4)
    # Negative control: what was said before matters.
    ((_, fresh),) = model.advance([words[::-1][64]], [model.fresh()])
    assert np.abs(together[64][1] - fresh).max() > 0.01


def test_a_call_changes_no_state_that_it_was_given(model: RnnLm) -> None:
    ((state, first),) = model.advance([5], [model.fresh()])
    before, said = State(*(each.copy() for each in state)), first.copy()
    ((after, _),) = model.advance([6], [state])
    np.testing.assert_array_equal(state.cell, before.cell)
    np.testing.assert_array_equal(first, said)
    assert np.abs(after.cell - before.cell).max() > 0.01


def test_threads_share_a_model(model: RnnLm) -> None:
    expected = [model.advance([word], [model.fresh()])[0][1] for word in range(8)]
    wrong: list[int] = []

    def call(word: int) -> None:
        for _ in range(20):
            ((_, log_probs),) = model.advance([word], [model.fresh()])
            if np.abs(log_probs - expected[word]).max() > 1e-5:
                wrong.append(word)

    threads = [threading.Thread(target=call, args=(word,)) for word in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert np.abs(expected[0] - expected[1]).max() > 0.01


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: model.advance([60], [model.fresh()]), "expected 0 to 59"),
        (lambda model: model.advance([-1], [model.fresh()]), "word number -1"),
        (lambda model: model.advance([1, 2], [model.fresh()]), "2 words and 1 states"),
        (
            lambda model: model.advance([1], [State(*model.fresh()[::-1])]),
            r"got a state of shapes \(\(48,\), \(32,\)\)",
        ),
    ],
)
def test_calls_that_would_end_the_process_are_refused(
    model: RnnLm, call: Callable[[RnnLm], object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        call(model)


def test_files_that_are_no_language_model_are_refused(
    path: Path, tmp_path: Path, streaming_pte: Path
) -> None:
    other = tmp_path / "other.rnnlm"
    with pytest.raises(ModelError, match="there is no recurrent language model at"):
        RnnLm(other)
    other.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelError, match="cut off"):
        RnnLm(other)
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    other.write_bytes(changed)
    with pytest.raises(ModelError, match="checksum"):
        RnnLm(other)
    other.write_bytes(b"not a program")
    with pytest.raises(ModelError, match="not an ExecuTorch program"):
        RnnLm(other)
    with pytest.raises(ModelError, match="it is a model that hears"):
        RnnLm(streaming_pte)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"version": 1', '"version": 2', "upgrade rdsdk"),
        ('"hidden": 48', '"hidden": 47', r"takes and gives .* its card says"),
        ('"projection": 32', '"projection": 24', r"takes and gives .* its card says"),
        ('"WORD5", "WORD6"', '"WORD5_, _WORD6"', r"takes and gives .* its card says"),
        ('"<unk>"', '"<ukn>"', "no words that begin with"),
        ('"WORD5", "WORD6"', '"WORD5", "WORD5"', "no words that begin with"),
        ('"hidden": 48', '"hidden": -1', "no widths"),
        ('"format": "rdsdk-rnnlm"', '"format": "rdsdk-rnnln"', "no recurrent language model"),
        ('{"format"', '["format"', "its card cannot be read"),
    ],
)
def test_a_card_that_is_not_the_programs_is_refused(
    path: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    data = path.read_bytes()
    program = data[: data.rindex(SEAL)]
    assert len(old) == len(new)
    assert program.count(old.encode()) == 1
    altered = tmp_path / "altered.rnnlm"
    altered.write_bytes(seal(program.replace(old.encode(), new.encode())))
    with pytest.raises(ModelError, match=said):
        RnnLm(altered)


def test_a_model_is_kept_until_its_file_changes(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.rnnlm"
    copy.write_bytes(path.read_bytes())
    kept = load_rnnlm(copy)
    assert load_rnnlm(str(copy)) is kept
    os.utime(copy, ns=(1, 1))
    assert load_rnnlm(copy) is not kept
    with pytest.raises(ModelError, match="there is no recurrent language model at"):
        load_rnnlm(tmp_path / "none.rnnlm")
