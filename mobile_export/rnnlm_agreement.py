"""Does a lowered recurrent language model say what the model says, step by step, in the real
runtime?

Three comparisons on the same random words, with the model: the model spelled for the exporter, in
float32; what was lowered, in torch; and the finished program. The first is sharp. The second says
what rounding to int8 costs, and the third may cost hardly more, so that a fault cannot hide behind
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rdsdk.decoding import rnnlm as runtime
from rdsdk.errors import ExportError
from rdsdk.models.rnnlm import RnnLm, State

WORST_SPELLED = 1e-4
"""Nats by which any log probability of the spelled model may differ."""
WORST_FP32 = 1e-3
"""The same for a float32 program."""
MEAN_INT8 = 0.05
"""Nats by which log probabilities of likely words of an int8 program may differ on average. With
24,000 words and the usual widths it is 0.021 for a model that is trained to its end, and 0.002 for
one that was trained for minutes."""
NOISIER = 1.1
"""So many times the difference of the same rounded layers in torch may that of an int8 program be:
inputs between two numbers are rounded otherwise. It is 1.02 for that model."""
LIKELY = 0.99
"""Words from this quantile of the model's distribution on are likely: a search meets few others."""
SIDE_BY_SIDE = (1, 3, 17)
STEPS = 6
_FIRST_SEED = 20_171


class Step(NamedTuple):
    """log_probs (N, V) and the state, hidden (N, P) and cell (N, H), after a word more."""

    log_probs: np.ndarray
    hidden: np.ndarray
    cell: np.ndarray


Stepper = Callable[[np.ndarray, np.ndarray, np.ndarray], Step]
"""words (N,) int64, hidden (N, P), cell (N, H) -> a step."""


@dataclass(frozen=True)
class Difference:
    """In nats: the largest of all words, and the mean over likely ones."""

    worst: float
    likely: float


@dataclass(frozen=True)
class Agreement:
    """A program, and what was lowered, in torch, each against the model."""

    model: Difference
    lowered: Difference

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the card."""
        return {
            "verdict": "passed",
            "steps": STEPS * len(SIDE_BY_SIDE),
            **{
                f"{name}_nats": {key: float(f"{figure:.3g}") for key, figure in found.items()}
                for name, found in asdict(self).items()
            },
        }


def require_spelled(advance: nn.Module, model: RnnLm) -> None:
    """Refuse a spelling for the exporter, in float32, that is not the model.

    Raises:
        ExportError: says by how much it differs.
    """
    found = difference(_module(advance), _model(model), model)
    if not found.worst < WORST_SPELLED:
        raise ExportError(
            f"spelled for the exporter, the model differs from itself by {found.worst:.3g} nats, "
            f"expected less than {WORST_SPELLED:g}"
        )


def require_alike(path: Path, advance: nn.Module, model: RnnLm, precision: str) -> Agreement:
    """Run a finished file beside its model and beside what was lowered.

    Raises:
        ExportError: they differ; says by how much.
        ModelError: the runtime does not take the file.
    """
    found = Agreement(
        difference(_program(runtime.RnnLm(path)), _model(model), model),
        difference(_module(advance), _model(model), model),
    )
    if precision == "fp32":
        checks = [("at worst", found.model.worst, WORST_FP32)]
    else:
        checks = [
            ("on average of likely words", found.model.likely, MEAN_INT8),
            (
                "on average of likely words, more than rounding explains",
                found.model.likely,
                NOISIER * found.lowered.likely,
            ),
        ]
    faults = [
        f"it differs by {got:.3g} nats {what}, expected less than {most:.3g}"
        for what, got, most in checks
        if not got < most
    ]
    if faults:
        raise ExportError(f"{path.name} does not say what its model says: {'; '.join(faults)}")
    return found


def difference(one: Stepper, reference: Stepper, model: RnnLm) -> Difference:
    """Let both read the same random sentences, each with its own state."""
    worst, likely = 0.0, []
    for count in SIDE_BY_SIDE:
        words = _sentences(count, len(model.config.words))
        state = [each.numpy() for each in model.fresh_state(count)]
        ours = theirs = Step(np.empty(0), *state)
        for row in words:
            ours = one(row, ours.hidden, ours.cell)
            theirs = reference(row, theirs.hidden, theirs.cell)
            apart = np.abs(ours.log_probs - theirs.log_probs)
            least = np.quantile(theirs.log_probs, LIKELY, axis=1, keepdims=True)
            likely.append(apart[theirs.log_probs >= least])
            # Not max(): it would pass over what is not a number.
            worst = float(np.max([worst, apart.max()]))
    return Difference(worst, float(np.concatenate(likely).mean()))


def _sentences(count: int, words: int) -> np.ndarray:
    """Words (STEPS, count), an end of sentence first; the rarer, the fewer, as in a text."""
    rng = np.random.default_rng(_FIRST_SEED + count)
    drawn = np.floor(words ** rng.random((STEPS, count))).astype(np.int64) - 1
    drawn[0] = 0
    return drawn


def _model(model: RnnLm) -> Stepper:
    @torch.no_grad()
    def step(words: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> Step:
        state = State(torch.from_numpy(hidden), torch.from_numpy(cell))
        outputs, after = model(torch.from_numpy(words)[None], state)
        return _arrays(model.log_probs(outputs[0]), *after)

    return step


def _module(advance: nn.Module) -> Stepper:
    @torch.no_grad()
    def step(words: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> Step:
        return _arrays(*advance(*map(torch.from_numpy, (words, hidden, cell))))

    return step


def _program(program: runtime.RnnLm) -> Stepper:
    def step(words: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> Step:
        states = [runtime.State(*each) for each in zip(hidden, cell, strict=True)]
        done = program.advance(words.tolist(), states)
        return Step(
            np.stack([log_probs for _, log_probs in done]),
            np.stack([state.hidden for state, _ in done]),
            np.stack([state.cell for state, _ in done]),
        )

    return step


def _arrays(log_probs: Tensor, hidden: Tensor, cell: Tensor) -> Step:
    return Step(log_probs.numpy(), hidden.numpy(), cell.numpy())
