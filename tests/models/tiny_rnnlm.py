"""A recurrent language model as small as one can be with all its parts, its weights random."""

from __future__ import annotations

from dataclasses import replace

import torch

from rdsdk.models.rnnlm import RnnLm, RnnLmConfig

WORDS = ("</s>", "<unk>", *(f"WORD{number}" for number in range(58)))
CONFIG = RnnLmConfig(WORDS, embedding=24, hidden=48, projection=32, cutoffs=(20, 40))
TIED = replace(CONFIG, embedding=None)


def tiny_rnnlm(seed: int = 3, config: RnnLmConfig = CONFIG) -> RnnLm:
    """Its biases matter, and its outputs are far from flat."""
    torch.manual_seed(seed)
    model = RnnLm(config)
    with torch.no_grad():
        read = {"embedding.weight"}
        if config.embedding is None:
            read = {"output.head.weight", "output.tail.0.1.weight", "output.tail.1.1.weight"}
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name in read:
                parameter.normal_(std=0.5)
            else:
                parameter.mul_(2)
    return model.eval()
