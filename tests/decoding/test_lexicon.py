import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.decoding.lexicon import Lexicon, ctc_log_likelihood
from rdsdk.decoding.vocabulary import Vocabulary

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "SEVEN")


def random_log_probs(frames: int, symbols: int, seed: int) -> np.ndarray:
    logits = torch.randn(frames, symbols, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(dim=-1).numpy()


def spoken(vocabulary: Vocabulary, spelling: list[dict[str, float]]) -> np.ndarray:
    """Two frames a symbol with the given probabilities, a blank after it; the rest is spread."""
    rows = []
    for symbols in spelling:
        row = np.full(len(vocabulary), 1e-4)
        for symbol, probability in symbols.items():
            row[vocabulary.symbols.index(symbol)] = probability
        blank = np.full(len(vocabulary), 1e-4)
        blank[vocabulary.blank] = 1.0
        rows += [row, row, blank]
    probabilities = np.array(rows)
    return np.log(probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 20),
    ids=st.lists(st.sampled_from([0, 1, 3, 4]), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_the_forward_score_is_torchs_ctc_loss(frames, ids, seed):
    log_probs = random_log_probs(frames, 5, seed)
    loss = torch.nn.functional.ctc_loss(
        torch.from_numpy(log_probs)[:, None].double(),
        torch.tensor([ids]),
        torch.tensor([frames]),
        torch.tensor([len(ids)]),
        blank=2,
        reduction="sum",
    )
    assert ctc_log_likelihood(log_probs, ids, blank=2) == pytest.approx(-float(loss), rel=1e-5)


def test_too_few_frames_are_impossible_not_an_error():
    log_probs = random_log_probs(2, 4, 0)
    assert ctc_log_likelihood(log_probs, [1, 2, 3], 0) == -np.inf
    assert ctc_log_likelihood(log_probs, [1, 1], 0) == -np.inf  # a blank is needed between
    assert ctc_log_likelihood(log_probs[:0], [1], 0) == -np.inf


def test_a_misheard_letter_is_put_right():
    vocabulary = Vocabulary.characters(DIGITS)
    heard = [{"S": 0.9}, {"E": 0.9}, {"V": 0.9}, {"O": 0.6, "E": 0.3}, {"N": 0.9}]
    found = Lexicon(vocabulary).closest(spoken(vocabulary, heard), vocabulary.encode("SEVON"))
    assert found is not None
    word, confidence = found
    assert word == "SEVEN"
    assert 0.5 < confidence < 1.0


def test_a_word_that_is_nothing_like_the_lexicon_is_dropped():
    vocabulary = Vocabulary.characters(DIGITS)
    heard = [{letter: 0.95} for letter in "BAG"]
    assert Lexicon(vocabulary).closest(spoken(vocabulary, heard), vocabulary.encode("BAG")) is None


def test_the_threshold_decides_what_is_dropped():
    vocabulary = Vocabulary.characters(DIGITS)
    frames = spoken(vocabulary, [{"T": 0.9}, {"W": 0.9}, {"A": 0.9, "O": 0.01}])
    heard = vocabulary.encode("TWA")
    assert Lexicon(vocabulary, min_log_ratio=-9.0).closest(frames, heard)[0] == "TWO"
    assert Lexicon(vocabulary, min_log_ratio=-0.01).closest(frames, heard) is None


def test_an_empty_lexicon_allows_no_word():
    vocabulary = Vocabulary.characters(())
    frames = spoken(vocabulary, [{"A": 0.9}])
    assert Lexicon(vocabulary).closest(frames, vocabulary.encode("A")) is None


def test_prefixes_and_members_are_known():
    lexicon = Lexicon(Vocabulary.characters(DIGITS))
    assert "TWO" in lexicon
    assert "TW" not in lexicon
    assert lexicon.begins("TW")
    assert not lexicon.begins("WO")
