"""Artefacts that hear tones, lowered once a session and shared by every room that runs one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Under --import-mode=importlib a test cannot import its neighbours without this.
sys.path.insert(0, str(Path(__file__).parent / "runtime"))

import tiny_program


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


@pytest.fixture(scope="session")
def streaming_pte(artefacts: Path) -> Path:
    return tiny_program.build(artefacts / "streaming.pte")


@pytest.fixture(scope="session")
def full_pte(artefacts: Path) -> Path:
    return tiny_program.build(artefacts / "full.pte", streaming=False)


@pytest.fixture(scope="session")
def words_pte(artefacts: Path) -> Path:
    return tiny_program.build(artefacts / "words.pte", symbols=tiny_program.WORD_SYMBOLS)


@pytest.fixture(scope="session")
def features_pte(artefacts: Path) -> Path:
    return tiny_program.build(
        artefacts / "features.pte", task="features", vocabulary=None, hidden_layers=[6]
    )


@pytest.fixture(scope="session")
def altered(streaming_pte: Path, artefacts: Path) -> Callable[[str, str], Path]:
    """The streaming artefact with a part of its card replaced by another of the same length."""

    def replace(old: str, new: str) -> Path:
        data = streaming_pte.read_bytes()
        assert len(old) == len(new)
        assert data.count(old.encode()) == 1
        path = artefacts / f"altered-{len(list(artefacts.iterdir()))}.pte"
        path.write_bytes(data.replace(old.encode(), new.encode()))
        return path

    return replace
