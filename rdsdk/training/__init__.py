"""Making students: fine-tuning and distillation."""

import logging

# At import torchao, which transformers asks for, names the CUDA libraries it cannot load, and torch
# warns of how it registers its enums: nothing a user could act on.
for _name in ("torch.utils._pytree", "torchao"):
    logging.getLogger(_name).setLevel(logging.ERROR)
