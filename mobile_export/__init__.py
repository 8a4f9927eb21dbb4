"""Checkpoints to artefacts for phones and desktops."""

import logging

# At import torchao names the CUDA libraries it cannot load, and torch warns of how it registers
# its enums; nobody can mend either.
for _name in ("torch.utils._pytree", "torchao"):
    logging.getLogger(_name).setLevel(logging.ERROR)
