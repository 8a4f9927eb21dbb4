"""How alike the attention maps of a model's layers and heads are, and which reuse that suggests.

The check of what section 3.2 of arXiv 2305.11685 assumes: that neighbouring layers have similar
maps, so that one layer's map can stand for the next ones'.

Two maps are compared row by row: a row is the weights that one frame gives to all frames, a
distribution. ``cosine`` is the mean over frames of the cosine of the two rows, ``kl`` the mean of
KL(own row || other row) in nats: what is lost when a layer applies the other map instead of its
own. Heads have no order that layers share, so layers are compared head by head after the one-to-one
pairing of heads that suits them best; ``same_head`` pairs them by number, as a model that reused
maps as they are would have to.

Shapes: L layers, H heads, N = L H, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rdsdk.errors import DataError

LEAST_PROBABILITY = 1e-8
"""Smaller weights count as this in the KL, which would be infinite where a weight underflows."""

_BLOCK_FRAMES = 64


@dataclass(frozen=True)
class MapSimilarity:
    """Similarity of every head of every layer with every other, means over all frames."""

    cosine: NDArray[np.float64]
    """(L, H, L, H), symmetric."""
    kl: NDArray[np.float64]
    """(L, H, L, H) nats: KL(first || second)."""
    flat_kl: NDArray[np.float64]
    """(L, H) nats: KL(own row || flat row), what a flat map in its place would lose. Maps that are
    nearly flat are alike without meaning anything."""
    frames: int
    """Frames it was measured on."""

    @property
    def layer_cosine(self) -> NDArray[np.float64]:
        """(L, L) after pairing heads for the highest cosine."""
        return paired_heads(self.cosine, maximise=True)

    @property
    def layer_kl(self) -> NDArray[np.float64]:
        """(L, L) nats, row: the layer that would reuse, column: the owner; heads paired for the
        lowest KL."""
        return paired_heads(self.kl, maximise=False)

    @property
    def same_head_cosine(self) -> NDArray[np.float64]:
        """(L, L) with heads paired by number."""
        return same_heads(self.cosine)

    @property
    def same_head_kl(self) -> NDArray[np.float64]:
        """(L, L) nats, with heads paired by number."""
        return same_heads(self.kl)


class MapSimilaritySum:
    """Adds recordings up; each counts by its frames."""

    def __init__(self) -> None:
        self._cosine: Tensor | None = None
        self._cross: Tensor | None = None
        self._flat: Tensor | None = None
        self._frames = 0
        self._shape = (0, 0)

    def add(self, maps: Sequence[Tensor]) -> None:
        """Add one recording: for each layer its maps (H, T, T), all of it real frames.

        A recording of a single frame has one possible map and is left out.
        """
        heads, frames = maps[0].shape[:2]
        if frames < 2:
            return
        flat = torch.cat([map_htt.float() for map_htt in maps])
        cosine = flat.new_zeros(len(flat), len(flat), dtype=torch.float64)
        cross = torch.zeros_like(cosine)
        for start in range(0, frames, _BLOCK_FRAMES):
            rows = flat[:, start : start + _BLOCK_FRAMES]
            unit = torch.nn.functional.normalize(rows, dim=-1).flatten(1)
            logs = rows.clamp_min(LEAST_PROBABILITY).log().flatten(1)
            cosine += unit @ unit.T
            cross += rows.flatten(1) @ logs.T
        flat_kl = frames * np.log(frames) + cross.diagonal()
        if self._cosine is None or self._cross is None or self._flat is None:
            self._cosine, self._cross, self._flat = cosine, cross, flat_kl
            self._shape = (len(maps), heads)
        else:
            self._cosine += cosine
            self._cross += cross
            self._flat += flat_kl
        self._frames += frames

    def result(self) -> MapSimilarity:
        """The means over all frames added.

        Raises:
            DataError: nothing was added.
        """
        if self._cosine is None or self._cross is None or self._flat is None:
            raise DataError("no recording has two frames or more, so there are no maps to compare")
        layers, heads = self._shape
        square = (layers, heads, layers, heads)
        kl = (self._cross.diagonal()[:, None] - self._cross).clamp_min(0.0)
        return MapSimilarity(
            (self._cosine / self._frames).cpu().numpy().reshape(square),
            (kl / self._frames).cpu().numpy().reshape(square),
            (self._flat / self._frames).cpu().numpy().reshape(layers, heads),
            self._frames,
        )


def paired_heads(value_lhlh: NDArray[np.float64], maximise: bool) -> NDArray[np.float64]:
    """(L, H, L, H) -> (L, L): the mean over heads, each paired with one of the other layer so that
    the mean is the best there is."""
    layers = len(value_lhlh)
    best = np.empty((layers, layers))
    for one in range(layers):
        for other in range(layers):
            block = value_lhlh[one, :, other]
            best[one, other] = block[linear_sum_assignment(block, maximize=maximise)].mean()
    return best


def same_heads(value_lhlh: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L, H, L, H) -> (L, L): the mean over heads paired by number."""
    return np.einsum("ahbh->ab", value_lhlh) / value_lhlh.shape[1]


@dataclass(frozen=True)
class ReusePattern:
    """A way to share maps, and what it would lose."""

    name: str
    map_owner: tuple[int, ...]
    """For each layer, from 0, the layer whose map it applies; as in ``EncoderConfig``."""
    kl: float
    """Mean over layers of KL(own map || applied map), nats a frame and head; owners lose 0."""
    cosine: float
    """Mean over layers of the cosine of the own and the applied map; owners have 1."""
    share: float
    """``kl`` over what flat maps in the reusing layers would lose: 0 loses nothing, from 1 on the
    owner's map is no better than a flat one."""

    @property
    def owners(self) -> int:
        """How many layers compute a map."""
        return len(set(self.map_owner))


def reuse_patterns(similarity: MapSimilarity) -> list[ReusePattern]:
    """The even patterns (2by6, 3by4, ...) that fill the layers, most owners first."""
    layers = len(similarity.cosine)
    sizes = [size for size in range(2, layers + 1) if layers % size == 0]
    return _scored(
        similarity,
        [
            (f"{size}by{layers // size}", tuple(layer - layer % size for layer in range(layers)))
            for size in sizes
        ],
    )


def best_patterns(similarity: MapSimilarity) -> list[ReusePattern]:
    """For every number of owners below L, most first, the contiguous grouping that loses least."""
    cost = similarity.layer_kl
    groupings = [best_grouping(cost, owners) for owners in range(len(cost) - 1, 0, -1)]
    return _scored(similarity, [(f"best of {len(set(g))}", g) for g in groupings])


def best_grouping(cost: NDArray[np.float64], owners: int) -> tuple[int, ...]:
    """The ``map_owner`` with ``owners`` contiguous groups, each owned by its first layer, of the
    least total cost, by dynamic programming.

    Args:
        cost: (L, L) what a layer (row) loses by applying the map of another (column).
        owners: 1 to L.
    """
    layers = len(cost)
    assert 1 <= owners <= layers
    # least[k][end]: of k groups over the layers before ``end``; start[k][end]: of the last one.
    least = np.full((owners + 1, layers + 1), np.inf)
    start = np.zeros((owners + 1, layers + 1), dtype=int)
    least[0, 0] = 0.0
    for groups in range(1, owners + 1):
        for end in range(groups, layers + 1):
            for first in range(groups - 1, end):
                total = least[groups - 1, first] + cost[first + 1 : end, first].sum()
                if total < least[groups, end]:
                    least[groups, end], start[groups, end] = total, first
    owner = [0] * layers
    end = layers
    for groups in range(owners, 0, -1):
        first = int(start[groups, end])
        owner[first:end] = [first] * (end - first)
        end = first
    return tuple(owner)


def _scored(
    similarity: MapSimilarity, patterns: Sequence[tuple[str, tuple[int, ...]]]
) -> list[ReusePattern]:
    kl, cosine = similarity.layer_kl, similarity.layer_cosine
    flat = similarity.flat_kl.mean(axis=1)
    rows = np.arange(len(kl))
    scored = []
    for name, owner in patterns:
        reused = rows != np.array(owner)
        applied = np.where(reused, cosine[rows, owner], 1.0)
        lost = np.where(reused, kl[rows, owner], 0.0)
        share = lost.sum() / max(flat[reused].sum(), LEAST_PROBABILITY)
        scored.append(
            ReusePattern(name, owner, float(lost.mean()), float(applied.mean()), float(share))
        )
    return scored
