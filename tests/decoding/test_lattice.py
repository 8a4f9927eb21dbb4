"""Hypotheses as arcs of a lattice."""

import numpy as np

from rdsdk.decoding.lattice import arcs_of

BOUNDARY, SIZE = 3, 5  # blank 0, phones 1 and 2, what ends a word 3, never 4
FIRST = SIZE + 1
# Each frame's score of a symbol tells which frame and symbol it was.
ROWS = -np.arange(1.0, 7.0)[:, None] - np.arange(SIZE) / 10


def end_of(label: int) -> int:
    return FIRST + label


PATHS = np.array(
    [
        [1, end_of(7), 0, 2, end_of(8), 0],
        [1, end_of(7), 2, 2, end_of(8), 0],
        [1, end_of(7), 2, 2, 2, 2],
        [0, 0, 1, 1, 1, 0],
    ]
)


def test_words_are_arcs_between_frames_with_the_best_score():
    arcs, _ = arcs_of(PATHS, ROWS, FIRST, BOUNDARY, start=100, since=0)
    assert [(arc.label, arc.start, arc.end) for arc in arcs] == [(7, 100, 102), (8, 102, 105)]
    first, second = arcs
    assert np.isclose(first.score, ROWS[0, 1] + ROWS[1, BOUNDARY])
    # Of the two ways to say the second word the one with a blank first.
    assert np.isclose(second.score, ROWS[2, 0] + ROWS[3, 2] + ROWS[4, BOUNDARY])
    assert list(second.path) == [0, 2, end_of(8)]
    assert np.array_equal(second.rows, ROWS[2:5])


def test_only_words_that_end_later_are_new():
    ends = [a.end for a in arcs_of(PATHS, ROWS, FIRST, BOUNDARY, start=100, since=102)[0]]
    assert ends == [105]
    assert arcs_of(PATHS, ROWS, FIRST, BOUNDARY, start=100, since=105)[0] == []


def test_what_follows_the_last_words_is_their_tail():
    _, tails = arcs_of(PATHS, ROWS, FIRST, BOUNDARY, start=100, since=105)
    # The last hypothesis has no word yet: its tail is all of it.
    assert set(tails) == {100, 102, 105}
    assert np.isclose(tails[105], ROWS[5, 0])
    assert np.isclose(tails[102], ROWS[[2, 3, 4, 5], 2].sum())
    assert np.isclose(tails[100], ROWS[range(6), [0, 0, 1, 1, 1, 0]].sum())


def test_an_end_inside_a_hotword_of_several_words_is_no_end():
    inner = SIZE
    paths = np.array([[1, inner, 2, end_of(9)]])
    (arc,), _ = arcs_of(paths, ROWS[:4], FIRST, BOUNDARY, start=0, since=0)
    assert (arc.label, arc.start, arc.end) == (9, 0, 4)
    assert np.isclose(arc.score, ROWS[[0, 1, 2, 3], [1, BOUNDARY, 2, BOUNDARY]].sum())
