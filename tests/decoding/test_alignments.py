"""The sum over all alignments of a word, against every alignment one by one."""

import itertools

import numpy as np
import pytest

from rdsdk.decoding.alignments import summed
from rdsdk.decoding.lattice import Arc

BLANK, BOUNDARY, SIZE = 0, 3, 5  # phones 1 and 2, what ends a word 3, never 4
INNER, FIRST = SIZE, SIZE + 1


def arc(path: list[int], rows: np.ndarray) -> Arc:
    columns = [BOUNDARY if symbol >= INNER else symbol for symbol in path]
    score = float(rows[range(len(path)), columns].sum())
    return Arc(path[-1] - FIRST, 0, len(path), score, np.array(path), rows)


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for s, before in zip(path, (None, *path), strict=False) if s not in (before, 0))


def one_by_one(path: list[int], rows: np.ndarray) -> float:
    """log of the sum over all paths that say the same; the last frame ends the word."""
    columns = [BOUNDARY if symbol >= INNER else symbol for symbol in path[:-1]]
    wanted, total = collapsed(tuple(columns)), -np.inf
    for other in itertools.product(range(BOUNDARY + 1), repeat=len(columns)):
        if collapsed(other) == wanted:
            total = np.logaddexp(total, rows[range(len(other)), other].sum())
    return float(total + rows[-1, BOUNDARY])


def drawn_rows(seed: int, frames: int) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(SIZE), frames)).astype(np.float32)


PATHS = [
    [1, FIRST],
    [1, 1, FIRST],
    [0, 1, 2, FIRST],
    [1, 0, 1, FIRST],
    [0, 0, 2, 1, 1, 2, FIRST],
    [2, 2, 0, 2, 1, FIRST + 8],
    [1, INNER, 1, 2, FIRST + 1],
    [0, 1, 0, INNER, 0, 2, FIRST + 2],
]


@pytest.mark.parametrize("seed", range(4))
def test_words_of_all_lengths_at_once_score_the_sum_of_their_alignments(seed: int) -> None:
    arcs = [arc(path, drawn_rows(seed * 100 + n, len(path))) for n, path in enumerate(PATHS)]
    found = summed(arcs, BLANK, BOUNDARY)
    wanted = [one_by_one(path, one.rows) for path, one in zip(PATHS, arcs, strict=True)]
    np.testing.assert_allclose([one.score for one in found], wanted, rtol=1e-6)
    # Negative control: the one alignment that was found is less, but where it is the only one.
    more = [one.score - before.score for one, before in zip(found, arcs, strict=True)]
    assert more[0] == pytest.approx(0, abs=1e-6)
    assert max(more[2:]) > 0.3
    for one, before in zip(found, arcs, strict=True):
        assert (one.label, one.start, one.end) == (before.label, before.start, before.end)
        assert one.path is before.path


def test_a_long_word_of_impossible_symbols_keeps_its_one_alignment() -> None:
    path = [0] * 150 + [1] * 100 + [2] * 150 + [FIRST]
    rows = np.full((len(path), SIZE), -1e4, np.float32)
    rows[:, 4] = 0.0
    only = arc(path, rows)
    (found,) = summed([only], BLANK, BOUNDARY)
    assert found.score == pytest.approx(only.score)


def test_a_long_word_loses_nothing_to_small_numbers() -> None:
    """Each frame halves: in 2,000 of them the sum would be below what a number can hold."""
    path = [1] * 2000 + [FIRST]
    rows = np.full((len(path), SIZE), np.log(0.2), np.float32)
    (found,) = summed([arc(path, rows)], BLANK, BOUNDARY)
    ways = 2000 * 2001 / 2  # a run of one symbol between blanks
    assert found.score == pytest.approx(2001 * np.log(0.2) + np.log(ways), abs=0.01)


def test_nothing_is_nothing() -> None:
    assert summed([], BLANK, BOUNDARY) == []
