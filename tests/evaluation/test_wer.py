"""Error rates with known numbers, empty references included, and intervals that cover."""

import math

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdsdk.errors import DataError
from rdsdk.evaluation.wer import (
    ErrorCounts,
    ErrorRates,
    bootstrap_interval,
    combine,
    error_rates,
    normalise,
)

WORDS = st.lists(st.sampled_from(["A", "B", "CC", "DDD"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("A B C", "A B C", ErrorCounts(hits=3)),
        ("A B C", "A X C", ErrorCounts(hits=2, substitutions=1)),
        ("A B C", "A C", ErrorCounts(hits=2, deletions=1)),
        ("A B C", "A B X C", ErrorCounts(hits=3, insertions=1)),
        ("A B C", "", ErrorCounts(deletions=3)),
        ("", "", ErrorCounts()),
        ("", "A B", ErrorCounts(insertions=2)),
        ("  A   B ", "A B", ErrorCounts(hits=2)),
        ("THE CAT SAT ON THE MAT", "THE CAT SIT THE MAT IN", ErrorCounts(4, 1, 1, 1)),
    ],
)
def test_words_are_counted_by_kind_of_error(
    reference: str, hypothesis: str, expected: ErrorCounts
) -> None:
    assert error_rates([reference], [hypothesis]).words == expected


def test_characters_are_counted_with_spaces() -> None:
    rates = error_rates(["AB CD"], ["AB D"])
    assert rates.characters == ErrorCounts(hits=4, deletions=1)
    assert rates.cer == pytest.approx(1 / 5)
    assert error_rates([""], ["A B"]).characters == ErrorCounts(insertions=3)


def test_rates_are_of_the_sum_and_not_the_mean_of_rates() -> None:
    rates = error_rates(["A B C D E F G H I", "A"], ["A B C D E F G H I", "X"])
    assert rates.wer == pytest.approx(1 / 10)


def test_words_on_empty_references_count_as_insertions_and_as_false() -> None:
    rates = error_rates(["A B C D", "", "", ""], ["A B C D", "UH", "", "UH HUH"])
    assert rates.words.insertions == 3
    assert rates.wer == pytest.approx(3 / 4)
    assert (rates.empty_references, rates.false_utterances, rates.false_words) == (3, 2, 3)
    assert rates.false_word_rate == pytest.approx(2 / 3)
    spoken = error_rates(["A"], ["A B"])  # an insertion beside words is none of these
    assert (spoken.false_utterances, spoken.false_words, spoken.false_word_rate) == (0, 0, 0.0)


def test_without_any_reference_word_the_rate_is_zero_or_infinite() -> None:
    assert error_rates([], []).wer == 0
    assert error_rates([""], [""]).wer == 0
    assert error_rates([""], ["A"]).wer == math.inf


def test_sets_are_combined_by_utterance() -> None:
    first, second = error_rates(["A B"], ["A X"]), error_rates(["A", ""], ["A", "B"])
    both = first + second
    assert both == error_rates(["A B", "A", ""], ["A X", "A", "B"])
    assert combine([first, second]) == both
    assert combine([]) == ErrorRates((), ())
    assert both.utterances == 3
    assert both.wer == pytest.approx(2 / 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5))
def test_the_sum_is_what_jiwer_says_of_all_at_once(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rates = error_rates(references, hypotheses)
    assert rates.wer == pytest.approx(jiwer.wer(references, hypotheses))
    assert rates.cer == pytest.approx(jiwer.cer(references, hypotheses))


def test_a_pair_without_its_other_half_is_refused() -> None:
    with pytest.raises(DataError, match="2 references but 1 hypotheses"):
        error_rates(["A", "B"], ["A"])


def test_the_interval_is_that_of_the_binomial_for_one_word_utterances() -> None:
    # 400 utterances of a word, 100 wrong: the standard error is sqrt(p (1 - p) / n) = 0.02165.
    rates = error_rates(["A"] * 400, ["B"] * 100 + ["A"] * 300)
    low, high = rates.wer_interval()
    assert low == pytest.approx(0.25 - 1.96 * 0.02165, abs=0.005)
    assert high == pytest.approx(0.25 + 1.96 * 0.02165, abs=0.005)
    assert rates.cer_interval() == (low, high)
    narrower = rates.wer_interval(confidence=0.5)
    assert low < narrower[0] < 0.25 < narrower[1] < high


def test_the_interval_draws_utterances_and_not_words() -> None:
    # The same words in utterances of forty are fewer draws: an interval sqrt(40) times as wide.
    single = [ErrorCounts(hits=1)] * 300 + [ErrorCounts(substitutions=1)] * 100
    grouped = [ErrorCounts(hits=40)] * 7 + [ErrorCounts(substitutions=40)] * 2
    widths = [np.diff(bootstrap_interval(counts))[0] for counts in (single, grouped)]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(400 / 9), rel=0.2)


def test_the_interval_is_repeatable_and_collapses_without_variance() -> None:
    rates = error_rates(["A B", "C", "D E F"], ["A X", "C", "D E"])
    assert rates.wer_interval(seed=1) == rates.wer_interval(seed=1)
    assert error_rates(["A B"] * 5, ["A X"] * 5).wer_interval() == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in error_rates([""], ["A"]).wer_interval())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  world!", "HELLO WORLD"),
        ("don't \u2014 don\u2019t", "DON'T DON'T"),
        ("twenty-two 22", "TWENTY TWO 22"),
        ("\u00c9t\u00e9", "\u00c9T\u00c9"),
        (" ?! ", ""),
        ("\u2018Yes,\u2019 he said", "YES HE SAID"),
        ("the \u2018quoted\u2019 word, 'tis", "THE QUOTED WORD TIS"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 x", "\u0939\u093f\u0928\u094d\u0926\u0940 X"),
    ],
)
def test_normalised_text_keeps_words_alone(text: str, expected: str) -> None:
    assert normalise(text) == expected
