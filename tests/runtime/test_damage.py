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


def test_good_artefacts_load_and_a_foreign_one_does_not_without_a_word_on_the_screen(
    streaming_pte, foreign_pte, tmp_path
):
    sealed = tmp_path / "sealed.pte"
    sealed.write_bytes(seal(streaming_pte.read_bytes()))
    done = load_all([streaming_pte, foreign_pte, sealed])
    first, foreign, second = done.stdout.splitlines()
    assert first.startswith("loaded")
    assert "not one of rdsdk" in foreign
    assert second.startswith("loaded")
    assert (done.returncode, done.stderr) == (0, "")


def test_truncated_random_and_changed_programs_are_refused(streaming_pte, tmp_path):
    data = streaming_pte.read_bytes()
    sealed = seal(data)
    chance = random.Random(1)
    damaged = [data[: chance.randrange(len(data) - 64)] for _ in range(150)]
    damaged += [data[:40] + chance.randbytes(len(data) - 40) for _ in range(30)]
    damaged.append(chance.randbytes(5000))
    for _ in range(300):
        copy = bytearray(sealed)
        copy[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        damaged.append(bytes(copy))
    done = load_all(variants(tmp_path, damaged))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == len(damaged)
    assert done.stderr == ""
