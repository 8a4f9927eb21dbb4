"""Lattice-free maximum mutual information over phones: D. Povey et al. 2016, section 2.

A frame classifier is told of each frame what it is; it is never told that a way through the phones
which no language takes costs it the sentence. Here a sentence competes with everything that could
be said: ``log P(the phones that were said) - log P(any phones)``, where any phones are weighed by a
trigram of the corpus's own phones. Both sums are exact, over all alignments (numerator: the known
alignment, give or take ``TOLERANCE_FRAMES``), by the forward-backward algorithm.

A phone lasts at least one frame, and stays or goes with the same probability: what a beam search
over phones assumes too, so that what is trained is what is searched, with a language model's weight
near one and no prior taken off.

Shape suffixes: B utterances, T frames, V symbols, S segments (phones said, one after the other).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rdsdk.data.alignment import PADDING

TOLERANCE_FRAMES = 3
"""So far from its aligned place a phone may be (60 ms)."""
_PSEUDO_COUNT = 10.0  # of the shorter history's estimate, in each count of a longer one
_STAY = _GO = 0.5  # how likely a phone lasts for another frame, or does not
_TINY, _HUGE = 1e-30, 1e30


@dataclass(frozen=True)
class PhoneTrigram:
    """Which phone follows which two.

    Attributes:
        begin_vv: (V, V), how likely a piece of speech begins inside the second after the first.
        follow_vvv: (V, V, V), how likely the third follows the first two; the last axis sums to 1.
    """

    begin_vv: Tensor
    follow_vvv: Tensor

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]], symbols: int) -> PhoneTrigram:
        """Count sequences of symbols, each phone once; longer histories lean on shorter ones."""
        triples = torch.zeros(symbols, symbols, symbols, dtype=torch.float64)
        for sequence in sequences:
            ids = torch.as_tensor(sequence, dtype=torch.long)
            if len(ids) > 2:
                ones = torch.ones(len(ids) - 2, dtype=torch.float64)
                triples.index_put_((ids[:-2], ids[1:-1], ids[2:]), ones, accumulate=True)
        pairs, single = triples.sum(0), triples.sum((0, 1))
        uniform = torch.full_like(single, 1 / symbols)
        estimate = _smoothed(single, uniform)
        estimate = _smoothed(pairs, estimate)
        follow = _smoothed(triples, estimate)
        begin = (triples.sum(2) + 1e-3) / (triples.sum() + 1e-3 * symbols**2)
        return cls(begin.float(), follow.float())

    def to(self, device: torch.device) -> PhoneTrigram:
        """The same on another device."""
        return PhoneTrigram(self.begin_vv.to(device), self.follow_vvv.to(device))


def _smoothed(counts: Tensor, shorter: Tensor) -> Tensor:
    return (counts + _PSEUDO_COUNT * shorter) / (counts.sum(-1, keepdim=True) + _PSEUDO_COUNT)


def lattice_free_mmi(
    log_probs: Tensor, frame_counts: Tensor, frame_targets: Tensor, trigram: PhoneTrigram
) -> Tensor:
    """Loss per frame of a batch, a scalar: ``(log P(any) - log P(said)) / frames``.

    Utterances without an alignment are left out; of none the loss is 0.

    Args:
        log_probs: (B, T, V); a constant added to a frame changes nothing.
        frame_counts: (B,).
        frame_targets: (B, T) symbols, ``PADDING`` from the first frame on without an alignment;
            what is behind an utterance's frames is not looked at.
    """
    known = frame_targets[:, 0] != PADDING
    if not bool(known.any()):
        return log_probs.float().sum() * 0.0
    frame_counts = frame_counts.to(log_probs.device)[known]
    # The longest of the batch may be one of those that are left out.
    longest = int(frame_counts.max())
    scores, frame_targets = log_probs[known, :longest].float(), frame_targets[known, :longest]
    trigram = trigram.to(scores.device)
    # Sums over hundreds of frames: autocast would round each of them to bfloat16.
    with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
        any_b, any_btv = any_phones(scores, frame_counts, trigram)
        said_b, said_btv = said_phones(scores, frame_counts, frame_targets)
    frames = frame_counts.sum()
    value, gradient = (any_b - said_b).sum() / frames, (any_btv - said_btv) / frames
    loss: Tensor = _Known.apply(scores, value, gradient)
    return loss


def known_frames(frame_counts: Tensor, frame_targets: Tensor) -> Tensor:
    """How many frames ``lattice_free_mmi`` is a mean over."""
    return frame_counts.to(frame_targets.device)[frame_targets[:, 0] != PADDING].sum()


class _Known(torch.autograd.Function):
    """A loss whose gradient is known."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None


def any_phones(
    scores_btv: Tensor, frame_counts: Tensor, trigram: PhoneTrigram
) -> tuple[Tensor, Tensor]:
    """log of the sum over all phone sequences and alignments (B,), and how much of it is in each
    symbol at each frame (B, T, V)."""
    counts, frames = frame_counts.tolist(), int(frame_counts.max())
    valid_tb = _within(frame_counts, frames)
    peak_tb = scores_btv[:, :frames].amax(-1).T
    likely_tvb = (scores_btv[:, :frames].permute(1, 2, 0) - peak_tb[:, None]).exp()[..., None]
    # States are (now, B, before): a phone now, and the one before it.
    follow = trigram.follow_vvv * _GO
    onward, back = follow.transpose(0, 1).contiguous(), follow.permute(1, 2, 0).contiguous()
    alpha = trigram.begin_vv.T[:, None] * likely_tvb[0]
    alphas, totals = [alpha], [alpha.sum((0, 2))]
    for t in range(1, frames):
        # Stays in a phone, or goes on: the one now becomes the one before.
        step = torch.bmm(alpha, onward).permute(2, 1, 0) + alpha * _STAY
        alpha = (step * (likely_tvb[t] / totals[-1][:, None])).contiguous()
        alphas.append(alpha)
        totals.append(alpha.sum((0, 2)).clamp_(min=_TINY))
    total_tb = torch.stack(totals)
    log_sum = ((total_tb.double().log() + peak_tb) * valid_tb).sum(0)
    posterior = torch.zeros_like(scores_btv)
    beta = torch.ones_like(alpha) / total_tb[-1][:, None]
    for t in range(frames - 1, -1, -1):
        if t < frames - 1:
            heard = beta * likely_tvb[t + 1]
            moved = torch.bmm(heard.permute(2, 1, 0), back)
            # A state that was never reached may have a future beyond all numbers.
            beta = (moved + heard * _STAY).div_(total_tb[t][:, None]).clamp_(max=_HUGE)
            beta = _where_ended(t, counts, valid_tb, beta, 1 / total_tb[t][:, None])
        posterior[:, t] = (alphas[t] * beta).sum(2).T
    return log_sum, posterior * valid_tb.T[..., None]


def said_phones(
    scores_btv: Tensor, frame_counts: Tensor, frame_targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The same over the alignments near the known one of the phones that were said."""
    symbols_bs, first_bs, after_bs, count_b = _segments(frame_counts, frame_targets)
    counts, frames = frame_counts.tolist(), int(frame_counts.max())
    valid_tb = _within(frame_counts, frames)
    scores = scores_btv[:, :frames].double()
    scores_tbs = scores.gather(2, symbols_bs[:, None].expand(-1, frames, -1)).transpose(0, 1)
    at = torch.arange(frames, device=scores.device)[:, None, None]
    near = (at >= first_bs - TOLERANCE_FRAMES) & (at < after_bs + TOLERANCE_FRAMES)
    scores_tbs = scores_tbs.masked_fill(~near & valid_tb[..., None], -torch.inf)
    peak_tb = scores_tbs.amax(-1)
    likely_tbs = (scores_tbs - peak_tb[..., None]).exp()
    alpha = torch.zeros_like(likely_tbs[0])
    alpha[:, 0] = likely_tbs[0, :, 0]
    alphas, totals = [alpha], [alpha.sum(1, keepdim=True)]
    for t in range(1, frames):
        step = alpha * _STAY
        step[:, 1:] += alpha[:, :-1] * _GO
        alpha = step * (likely_tbs[t] / totals[-1])
        alphas.append(alpha)
        totals.append(alpha.sum(1, keepdim=True))
    alpha_tbs, total_tb1 = torch.stack(alphas), torch.stack(totals)
    rows = torch.arange(len(count_b), device=scores.device)
    arrived = alpha_tbs[frame_counts - 1, rows, count_b - 1] / total_tb1[frame_counts - 1, rows, 0]
    log_sum = torch.where(valid_tb, total_tb1[..., 0].log() + peak_tb, 0.0).sum(0) + arrived.log()
    # From behind: the last phone is where all must end.
    last = torch.zeros_like(alpha).scatter_(1, count_b[:, None] - 1, 1 / arrived[:, None])
    beta, betas = last / total_tb1[-1], []
    for t in range(frames - 1, -1, -1):
        if t < frames - 1:
            heard = beta * likely_tbs[t + 1]
            beta = heard * _STAY
            beta[:, :-1] += heard[:, 1:] * _GO
            beta = beta / total_tb1[t]
            beta = _where_ended(t, counts, valid_tb, beta, last / total_tb1[t])
        betas.append(beta)
    share_tbs = alpha_tbs * torch.stack(betas[::-1]) * valid_tb[..., None]
    posterior = torch.zeros_like(scores_btv)
    index = symbols_bs[:, None].expand(-1, frames, -1)
    posterior[:, :frames].scatter_add_(2, index, share_tbs.transpose(0, 1).to(posterior.dtype))
    return log_sum, posterior


def _within(frame_counts: Tensor, frames: int) -> Tensor:
    """Which frames belong to an utterance, (T, B)."""
    return torch.arange(frames, device=frame_counts.device)[:, None] < frame_counts


def _where_ended(
    t: int,
    counts: Sequence[int],
    valid_tb: Tensor,
    beta: Tensor,
    end: Tensor,
) -> Tensor:
    """``end`` for utterances whose last frame is ``t`` or before, ``beta`` for the others."""
    if t < min(counts) - 1:
        return beta
    return torch.where(valid_tb[t + 1][:, None], beta, end)


def _segments(frame_counts: Tensor, frame_targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Runs of one symbol: which (B, S), their first frame and the one behind, their number (B,)."""
    rows = []
    for count, targets in zip(frame_counts.tolist(), frame_targets, strict=True):
        symbols, lengths = torch.unique_consecutive(targets[:count], return_counts=True)
        after = lengths.cumsum(0)
        rows.append((symbols, after - lengths, after))
    counts = torch.tensor([len(row[0]) for row in rows], device=frame_targets.device)
    # A padded segment lies where no frame is near.
    columns = [
        torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=padding)
        for column, padding in zip(zip(*rows, strict=True), (0, 10**8, 10**8), strict=True)
    ]
    return columns[0].long(), columns[1], columns[2], counts
