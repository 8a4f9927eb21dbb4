"""Layer gradient scaling: deep students whose every layer has a loss of its own.

The lower a layer, the more losses send gradients through it. Scaled, each layer hears the mean of
its own loss and those above it instead of their sum. The forward pass stays what it is, bit by bit.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rdsdk.models.encoder import Encoder, EncoderLayer

GradientScale = Literal["off", "shares", "released"]


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself; its gradient comes back multiplied by ``factor``."""
    scaled: Tensor = _Scaled.apply(x, factor)
    return scaled


def shares(layer: int, layers: int, how: GradientScale) -> tuple[float, float]:
    """What the hidden state after ``layer`` (from 1) of ``layers`` hears: (own loss, onward path).

    ``"shares"``: 1 / (L - i + 1) of its own loss and (L - i) / (L - i + 1) of what comes back from
    the layers above. ``"released"``: what the released ARMHuBERT code does, which counts layers
    from 0 (so m = (L - i + 1) / (L - i + 2) here), multiplies the onward path by m, and the own
    loss, taken from behind that, by m (1 - m): every layer's own loss is damped, the last one's to
    a quarter.
    """
    if how == "off":
        return 1.0, 1.0
    if how == "shares":
        return 1 / (layers - layer + 1), (layers - layer) / (layers - layer + 1)
    kept = (layers - layer + 1) / (layers - layer + 2)
    return kept * (1 - kept), kept


class LayerGradientScale:
    """Scales the gradients of an encoder's layers through hooks; the model knows nothing of it.

    The onward path is scaled where a layer takes its input; ``own`` scales the losses' side.
    Copies, checkpoints and exports of the encoder are made without the hooks.
    """

    def __init__(self, encoder: Encoder, how: GradientScale) -> None:
        self.how: GradientScale = how
        self._hooks: list[RemovableHandle] = []
        if how == "off":
            return
        depth = len(encoder.layers)
        for number in range(1, depth):
            _, onward = shares(number, depth, how)
            following = encoder.layers[number]
            assert isinstance(following, EncoderLayer)
            # An owner's map is computed beside its layer's forward, from the same input.
            for taker in (following, following.attention_map):
                if taker is not None:
                    self._hooks.append(taker.register_forward_pre_hook(_input_scale(onward)))

    def own(self, hidden: list[Tensor]) -> list[Tensor]:
        """The hidden states (B, T, D) after each layer, as their own losses should take them."""
        return [
            scale_gradient(state, shares(number, len(hidden), self.how)[0])
            for number, state in enumerate(hidden, start=1)
        ]

    def remove(self) -> None:
        """Take the hooks off again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _input_scale(factor: float) -> Any:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (scale_gradient(arguments[0], factor), *arguments[1:])

    return hook
