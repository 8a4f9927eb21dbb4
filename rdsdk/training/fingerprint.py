"""What tells two models apart, in sixteen letters."""

from __future__ import annotations

import hashlib

from torch import nn

from rdsdk.models.student import Student


def of_extractor(student: Student) -> str:
    """Of an extractor's architecture and weights."""
    return of_weights(student.extractor, student.config.convs)


def of_weights(module: nn.Module, architecture: object) -> str:
    """Of an architecture, by its ``repr``, and of weights."""
    digest = hashlib.sha256(repr(architecture).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
