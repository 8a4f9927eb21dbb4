"""How well words fit their frames, all alignments together.

A hypothesis says one way in which a word's symbols lie in its frames. A model that learnt the
sum over all ways (CTC, lattice-free MMI) means their sum (A. Graves et al. 2006, section 4.1).

Shapes: A arcs, T frames of the longest, S states of the longest: blanks and symbols in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rdsdk.decoding.lattice import Arc


def summed(arcs: Sequence[Arc], blank: int, boundary: int) -> list[Arc]:
    """The same arcs, each scored by the logarithm of the sum over all alignments of its symbols to
    its frames. What ends the word stays in the last frame.

    Args:
        arcs: their paths and frames, as ``arcs_of`` gives them.
        blank: the column of silence, which may lie before, between and behind the symbols.
        boundary: the column of what ends a word; a path has symbols from there on where one ends.
    """
    if not arcs:
        return []
    states = [_states(arc.path[:-1], blank, boundary) for arc in arcs]
    likely_ats, peak_a, goes_on_at = _frames(arcs, states)
    states_as = np.full(likely_ats.shape[::2], blank)
    for row, own in zip(states_as, states, strict=True):
        row[: len(own)] = own
    # From one symbol to the next without a blank between, unless they are the same.
    skips_as = np.zeros(states_as.shape)
    skips_as[:, 3::2] = states_as[:, 3::2] != states_as[:, 1:-2:2]
    alpha_as = np.zeros(states_as.shape)
    alpha_as[:, :2] = likely_ats[:, 0, :2]
    log_scale_a = peak_a
    for t in range(1, likely_ats.shape[1]):
        moved_as = alpha_as.copy()
        moved_as[:, 1:] += alpha_as[:, :-1]
        moved_as[:, 2:] += alpha_as[:, :-2] * skips_as[:, 2:]
        moved_as *= likely_ats[:, t]
        # Where an arc is over, or no alignment is more likely than nothing, nothing moves.
        total_a = np.where(goes_on_at[:, t], moved_as.sum(axis=1), 0.0)
        moving_a = total_a > 0
        total_a[~moving_a] = 1.0
        alpha_as = np.where(moving_a[:, None], moved_as / total_a[:, None], alpha_as)
        log_scale_a = log_scale_a + np.log(total_a)
    behind = np.array([len(own) for own in states])
    row = np.arange(len(arcs))
    arrived_a = alpha_as[row, behind - 1] + alpha_as[row, behind - 2]
    ends_a = np.array([arc.rows[-1, boundary] for arc in arcs], np.float64)
    with np.errstate(divide="ignore"):
        sum_a = np.log(arrived_a) + log_scale_a + ends_a
    # The one alignment that is known is among them.
    return [
        replace(arc, score=max(arc.score, total))
        for arc, total in zip(arcs, sum_a.tolist(), strict=True)
    ]


def _frames(
    arcs: Sequence[Arc], states: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How likely each state is in each frame but the last, beside the likeliest symbol (A, T, S);
    the logarithms of what those have together (A,); and which frames an arc has (A, T)."""
    longest = max(len(arc.path) for arc in arcs) - 1
    likely_ats = np.zeros((len(arcs), longest, max(map(len, states))))
    peak_a = np.zeros(len(arcs))
    goes_on_at = np.zeros((len(arcs), longest), bool)
    for n, (arc, own) in enumerate(zip(arcs, states, strict=True)):
        rows = arc.rows[:-1].astype(np.float64)
        peaks = rows.max(axis=1, keepdims=True)
        likely_ats[n, : len(rows), : len(own)] = np.exp(rows - peaks)[:, own]
        peak_a[n] = peaks.sum()
        goes_on_at[n, : len(rows)] = True
    return likely_ats, peak_a, goes_on_at


def _states(path: np.ndarray, blank: int, boundary: int) -> list[int]:
    """Blanks and the symbols of a path in turn, a blank first and last."""
    columns = np.where(path >= boundary, boundary, path)
    changed = np.concatenate([[True], columns[1:] != columns[:-1]])
    symbols = columns[changed & (columns != blank)].tolist()
    return [blank, *(state for symbol in symbols for state in (symbol, blank))]
