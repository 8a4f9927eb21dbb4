"""One layer of a program, in the place of its last: what cuts sound into calls need not know."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rdsdk.errors import ModelError
from rdsdk.runtime.card import Card
from rdsdk.runtime.program import Output, Program, State


class FrameProgram(Protocol):
    """What turns samples into frames; a ``Program`` does."""

    @property
    def card(self) -> Card:
        """What the artefact says about itself."""

    def silent_state(self) -> State:
        """The state after one chunk of silence."""

    def forward(self, waveform: np.ndarray, state: State | None = None) -> Output:
        """Run one block of samples (S,)."""

    def step(self, waveform: np.ndarray, state: State | None = None) -> Output:
        """Run exactly one chunk of samples (S,)."""


class LayerProgram:
    """The hidden states of one layer of a program's ``features``, without ``log_probs``."""

    def __init__(self, program: Program, layer: int) -> None:
        self._program = program
        self._layer = layer

    @property
    def card(self) -> Card:
        """The program's."""
        return self._program.card

    def silent_state(self) -> State:
        """The program's: a state belongs to all layers."""
        return self._program.silent_state()

    def forward(self, waveform: np.ndarray, state: State | None = None) -> Output:
        """As ``Program.forward``; ``hidden`` is that of the layer.

        Raises:
            ModelError: as ``Program.features``.
        """
        features = self._program.features(waveform, state)
        return Output(None, features.hidden[self._layer], features.state)

    step = forward


def program_of_layer(program: Program, layer: int) -> FrameProgram:
    """The program itself for its last layer, which every method gives; else a view of it.

    Args:
        layer: the number of the encoder layer, counted from 1, or -1 for the last one held.

    Raises:
        ModelError: the artefact does not hold that layer; names those it holds.
    """
    layers = program.card.hidden_layers
    if layer in (-1, layers[-1]):
        return program
    if layer not in layers:
        held = ", ".join(map(str, layers))
        raise ModelError(
            f"{program.path} holds the hidden states of layer {held} only, not of layer {layer}; "
            "use one of these, -1 for the last, or export with --methods forward,features --layers"
        )
    return LayerProgram(program, layer)
