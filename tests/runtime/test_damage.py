"""Damaged and foreign programs, loaded in a process of their own: none may end it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rdsdk.runtime.artefact import seal

LOAD_ALL = """
import sys
from rdsdk.errors import ModelError
from rdsdk.runtime.program import Program
for path in sys.stdin.read().split():
    try:
        Program(path)
        print("loaded", path)
    except ModelError as error:
        print("refused", error)
"""


def load_all(paths: list[Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD_ALL],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=120,
    )


def variants(folder: Path, contents: list[bytes]) -> list[Path]:
    paths = [folder / f"{index}.pte" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture(scope="module")
def foreign_pte(artefacts) -> Path:
    """A good program that is not ours."""
    from executorch.exir import to_edge_transform_and_lower

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    exported = torch.export.export(Double(), (torch.zeros(3),))
    path = artefacts / "foreign.pte"
    path.write_bytes(to_edge_transform_and_lower(exported).to_executorch().buffer)
    return path


def test_a_good_artefact_loads_without_a_word_on_the_screen(streaming_pte, tmp_path):
    sealed = tmp_path / "sealed.pte"
    sealed.write_bytes(seal(streaming_pte.read_bytes()))
    done = load_all([streaming_pte, sealed])
    assert done.stdout.count("loaded") == 2, done.stdout
    assert done.stderr == ""


def test_somebody_elses_program_is_refused(foreign_pte):
    done = load_all([foreign_pte])
    assert "not one of rdsdk" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_truncated_programs_are_refused(streaming_pte, tmp_path):
    data = streaming_pte.read_bytes()
    chance = random.Random(1)
    cuts = [data[: chance.randrange(len(data) - 64)] for _ in range(150)]
    done = load_all(variants(tmp_path, cuts))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == 150


def test_random_bytes_behind_a_good_header_are_refused(streaming_pte, tmp_path):
    data = streaming_pte.read_bytes()
    chance = random.Random(2)
    noise = [data[:40] + chance.randbytes(len(data) - 40) for _ in range(30)]
    done = load_all(variants(tmp_path, [*noise, chance.randbytes(5000)]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == 31


def test_changed_bytes_of_a_sealed_program_are_refused(streaming_pte, tmp_path):
    data = seal(streaming_pte.read_bytes())
    chance = random.Random(3)
    changed = []
    for _ in range(300):
        copy = bytearray(data)
        copy[chance.randrange(len(data) - 12)] ^= chance.randrange(1, 256)
        changed.append(bytes(copy))
    done = load_all(variants(tmp_path, changed))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == 300
