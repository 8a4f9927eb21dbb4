"""A teacher and a recipe small enough for seconds, on real clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from rdsdk.models import checkpoint
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import EncoderConfig, preset, reuse_pattern
from rdsdk.models.student import Student

CLIPS = Path(__file__).parent.parent / "assets" / "speech" / "manifest.jsonl"


def teacher_config() -> EncoderConfig:
    """Full context, no reuse, another width, normed so that padding changes nothing."""
    return replace(
        preset("tiny"),
        width=48,
        heads=4,
        ffn=64,
        map_owner=reuse_pattern("none", 4),
        context=None,
        position="centred",
        dropout=0.0,
    )


def write_teacher(folder: Path) -> Path:
    """A random teacher with attention and branches strong enough to be worth learning."""
    torch.manual_seed(7)
    model = Student(teacher_config())
    for name, parameter in model.encoder.layers.named_parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(12.0 if ".attention_map." in name else 4.0)
    return checkpoint.save(folder, Checkpoint(model))


def write_recipe(folder: Path, teacher: Path, **changes: Any) -> Path:
    """A recipe on the real clips; ``changes`` replace whole entries."""
    recipe: dict[str, Any] = {
        "train": [str(CLIPS)],
        "dev": [str(CLIPS)],
        "output": str(folder / "run"),
        "teacher": str(teacher),
        "student": {"preset": "tiny", "dropout": 0.1},
        "objective": {"layer_grad_scale": "shares"},
        "masking": {"ratio": [0.5]},
        "optimisation": {"steps": 8, "learning_rate": 2e-3},
        "batch_seconds": 6,
        "validate_every_steps": 4,
        "save_every_steps": 2,
        "hardware": {"accelerator": "cpu", "devices": 1, "workers": 0},
        "licence": "CC0",
        **changes,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file
