"""How alike teacher and student are, layer by layer, and a picture of it.

Shapes: B batch, T frames, P width, N layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rdsdk.training.losses import temporal_gram

PIXELS = 6
"""Height and width of a layer's frame in the picture."""


def frame_similarity(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """(B, N, T): cosine of what the student says through its heads with its teacher's layers.

    A student without heads is compared by how its frames relate: the cosine of row t of both
    temporal Gram matrices, which is defined for any two widths.
    """
    layers = []
    for ours, theirs in zip(predictions, targets, strict=True):
        if ours.shape[-1] == theirs.shape[-1]:
            layers.append(F.cosine_similarity(ours.float(), theirs.float(), dim=-1))
        else:
            grams = temporal_gram(ours, ours), temporal_gram(theirs, theirs)
            layers.append(F.cosine_similarity(*grams, dim=-1))
    return torch.stack(layers, dim=1)


def similarity_image(similarity: Tensor) -> NDArray[np.uint8]:
    """(N, T) in [-1, 1] -> an RGB picture (height, width, 3): layer 1 on top, time to the right.

    Blue is -1, black 0, and from there over red to yellow at 1.
    """
    value = similarity.detach().float().cpu().numpy().clip(-1, 1)
    red = (2 * value).clip(0, 1)
    green = (2 * value - 1).clip(0, 1)
    blue = (-value).clip(0, 1)
    picture = np.stack([red, green, blue], axis=-1)
    large = picture.repeat(2 * PIXELS, axis=0).repeat(PIXELS, axis=1)
    return (255 * large).round().astype(np.uint8)
