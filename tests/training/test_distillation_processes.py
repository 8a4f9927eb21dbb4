"""Distillation in two processes: the gradients of one with twice the batch, whole runs, stops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import distil_gradients
import pytest
import torch
from distil_setup import write_recipe, write_teacher
from safetensors.torch import load_file
from torch import Tensor

from rdsdk.models import checkpoint

ROOT = Path(__file__).parent.parent.parent


def run(*command: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def gradients(teacher: Path, folder: Path, *how: str) -> dict[str, Tensor]:
    file = folder / f"{'-'.join(how)}.pt"
    done = run(distil_gradients.__file__, str(teacher), str(file), *how)
    assert done.returncode == 0, done.stderr
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of any weight's gradient, over that weight's largest gradient."""
    assert a.keys() == b.keys()
    return max(
        float((a[name] - b[name]).abs().max() / b[name].abs().max().clamp(min=1e-8)) for name in a
    )


def test_two_processes_give_the_gradients_of_one_with_twice_the_batch(
    teacher: Path, tmp_path: Path
) -> None:
    whole = gradients(teacher, tmp_path, "1")
    assert sum(float(gradient.abs().sum()) for gradient in whole.values()) > 0
    two = gradients(teacher, tmp_path, "2")
    assert difference(two, whole) < 1e-3
    # Negative control: with unequal shares a mean of means is something else.
    assert difference(gradients(teacher, tmp_path, "2", "own-frames"), whole) > 0.02


def test_a_run_in_two_processes_leaves_one_checkpoint(teacher: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, teacher)
    two = ["hardware.devices=2", "hardware.strategy=ddp", "optimisation.steps=4"]
    done = run("-m", "rdsdk.cli", "distill", "--config", str(recipe), *two)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "run" / "best" / checkpoint.WEIGHTS)
    assert all(tensor.isfinite().all() for tensor in weights.values())
