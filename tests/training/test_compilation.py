"""Compiled layers learn what plain ones learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rdsdk.models.config import preset
from rdsdk.models.student import Student
from rdsdk.training.cli import main
from rdsdk.training.run import compile_layers

COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler")


@needs_compiler
def test_a_compiled_run_ends_where_a_plain_one_does(recipe: Path, tmp_path: Path) -> None:
    torch.compiler.reset()
    weights = {}
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        output = tmp_path / name
        given = [f"hardware.compile={compiled}", f"output={output}", "optimisation.steps=2"]
        given += ["validate_every_steps=2"]
        assert main(["--config", str(recipe), *given]) == 0
        weights[name] = load_file(output / "last" / "model.safetensors")
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted > 0, "nothing was compiled"
    assert weights["plain"].keys() == weights["compiled"].keys()
    worst = max(
        float((weights["plain"][name] - tensor).abs().max())
        for name, tensor in weights["compiled"].items()
    )
    assert worst < 1e-3


@needs_compiler
def test_what_is_compiled_is_saved_and_copied_as_before() -> None:
    student = Student(preset("tiny"), symbols=5)
    names = list(student.state_dict())
    compile_layers(student)
    assert list(student.state_dict()) == names
    assert student.copy().parameter_count() == student.parameter_count()
