"""``rdsdk analyze attention``: a teacher's maps over recordings -> figure, numbers, suggestion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from torch import Tensor

from rdsdk.evaluation.attention_maps import (
    MapSimilarity,
    MapSimilaritySum,
    ReusePattern,
    best_patterns,
    reuse_patterns,
)
from rdsdk.evaluation.figures import draw_attention
from rdsdk.training.teachers import Teacher

FIGURE, HEADS = "attention.png", "attention.npz"


@dataclass(frozen=True)
class AttentionAnalysis:
    """What the maps of one teacher are like, and how they could be shared."""

    teacher: str
    recordings: int
    similarity: MapSimilarity
    even: list[ReusePattern]
    best: list[ReusePattern]

    def to_dict(self) -> dict[str, object]:
        """A JSON value; all of it but the single heads, which are in the ``.npz``."""
        similarity = self.similarity
        matrices = {
            "cosine": similarity.layer_cosine,
            "kl": similarity.layer_kl,
            "same_head_cosine": similarity.same_head_cosine,
            "same_head_kl": similarity.same_head_kl,
            "flat_kl": similarity.flat_kl,
        }
        return {
            "teacher": self.teacher,
            "recordings": self.recordings,
            "frames": similarity.frames,
            **{name: np.round(matrix, 6).tolist() for name, matrix in matrices.items()},
            "patterns": [_pattern_value(pattern) for pattern in self.even],
            "best": [_pattern_value(pattern) for pattern in self.best],
        }

    def save(self, folder: Path) -> list[str]:
        """Write the figure and the heads' matrices; returns their names."""
        similarity = self.similarity
        # Half of the layers, as 2by6: the paper's first choice.
        outlined = _with_owners(self.best, math.ceil(len(similarity.cosine) / 2))
        title = f"{self.teacher}: {self.recordings} recordings, {similarity.frames} frames"
        draw_attention(folder / FIGURE, similarity, outlined, f"Attention maps of {title}")
        np.savez_compressed(
            folder / HEADS,
            cosine=similarity.cosine.astype(np.float32),
            kl=similarity.kl.astype(np.float32),
            flat_kl=similarity.flat_kl.astype(np.float32),
        )
        return [FIGURE, HEADS]

    def report(self) -> list[Table | str]:
        """What is printed."""
        return [self._neighbours(), self._patterns(), self._suggestion()]

    def _neighbours(self) -> Table:
        similarity = self.similarity
        cosine, kl = similarity.layer_cosine, similarity.layer_kl
        table = Table(title=f"Attention maps of {self.teacher}", title_justify="left")
        titles = ("layer", "cosine with the one before", "same heads", "KL from it", "KL from flat")
        for title in titles:
            table.add_column(title, justify="right")
        for layer, flat in enumerate(similarity.flat_kl.mean(axis=1)):
            compared = (
                f"{matrix[layer, layer - 1]:.3f}" if layer else ""
                for matrix in (cosine, similarity.same_head_cosine, kl)
            )
            table.add_row(str(layer), *compared, f"{flat:.3f}")
        return table

    def _patterns(self) -> Table:
        table = Table(title="What sharing maps would lose", title_justify="left")
        table.add_column("pattern")
        for title in ("owners", "KL (nats)", "of a flat map's", "cosine"):
            table.add_column(title, justify="right")
        table.add_column("map_owner", overflow="fold")
        patterns = sorted([*self.even, *self.best], key=lambda one: (-one.owners, one.kl))
        for pattern in patterns:
            table.add_row(
                pattern.name,
                str(pattern.owners),
                f"{pattern.kl:.4f}",
                f"{100 * pattern.share:.0f} %",
                f"{pattern.cosine:.4f}",
                _owners_text(pattern),
            )
        return table

    def _suggestion(self) -> str:
        lines = []
        if self.even:
            least = min(self.even, key=lambda pattern: pattern.kl)
            lines.append(
                f"Of the even patterns {least.name} loses least: {least.kl:.4f} nats, "
                f"{100 * least.share:.0f} % of what flat maps would lose."
            )
            if least.share >= 1:
                lines.append(
                    "An owner's map is no better than a flat one: these layers share none."
                )
        for pattern in self.even:
            better = _with_owners(self.best, pattern.owners)
            if better is not None and better.kl < pattern.kl:
                lines.append(
                    f"With as many owners as {pattern.name}, {_owners_text(better)} loses "
                    f"{100 * (1 - better.kl / pattern.kl):.0f} % less."
                )
        return "\n".join(lines)


def analyze_attention(
    teacher: Teacher, recordings: Iterable[tuple[Tensor, Tensor]]
) -> AttentionAnalysis:
    """Compare all maps over recordings, each (waveform (1, S), sample_counts (1,)).

    Raises:
        DataError: no recording has two frames or more.
    """
    total = MapSimilaritySum()
    count = 0
    for waveform, sample_counts in recordings:
        total.add([map_bhtt[0] for map_bhtt in teacher.attention_maps(waveform, sample_counts)])
        count += 1
    similarity = total.result()
    even, best = reuse_patterns(similarity), best_patterns(similarity)
    return AttentionAnalysis(teacher.name, count, similarity, even, best)


def _with_owners(patterns: Sequence[ReusePattern], owners: int) -> ReusePattern | None:
    return next((pattern for pattern in patterns if pattern.owners == owners), None)


def _owners_text(pattern: ReusePattern) -> str:
    return f"({','.join(str(layer) for layer in pattern.map_owner)})"


def _pattern_value(pattern: ReusePattern) -> dict[str, object]:
    return {
        "name": pattern.name,
        "owners": pattern.owners,
        "map_owner": list(pattern.map_owner),
        "kl": round(pattern.kl, 6),
        "share": round(pattern.share, 6),
        "cosine": round(pattern.cosine, 6),
    }
