"""Artefacts that hear tones, lowered once a session and shared by every room that runs one."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    # `make test` runs several processes side by side; each takes its share of the cores, and so do
    # the programs that it starts. Before torch is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every process the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Under --import-mode=importlib a test cannot import its neighbours without this.
sys.path.insert(0, str(Path(__file__).parent / "runtime"))

import tiny_program

from rdsdk.training.torchaudio_import import mend_torchaudio

if os.environ.get("RDSDK_WITHOUT_FLASHLIGHT"):
    # As on Pythons that flashlight-text has no wheels for; see tests/decoding/test_trie_search.py.
    sys.modules["flashlight"] = None  # type: ignore[assignment]

# Tests import transformers by themselves, which beside a CPU-only torch needs this first.
mend_torchaudio()


@pytest.fixture(scope="session")
def artefacts(request: pytest.FixtureRequest) -> Path:
    """Kept between sessions, because lowering takes seconds; changed sources start a new folder."""
    source = Path(tiny_program.__file__).read_bytes()
    versions = " ".join(version(name) for name in ("executorch", "torch"))
    key = hashlib.sha256(source + versions.encode()).hexdigest()[:16]
    return Path(request.config.cache.mkdir(f"artefacts-{key}"))


def lowered(folder: Path, name: str, **how: Any) -> Path:
    path = folder / f"{name}.pte"
    if not path.exists():
        part = folder / f"{name}.{os.getpid()}.part"
        tiny_program.build(part, **how).replace(path)
    return path


@pytest.fixture(scope="session")
def streaming_pte(artefacts: Path) -> Path:
    return lowered(artefacts, "streaming")


@pytest.fixture(scope="session")
def full_pte(artefacts: Path) -> Path:
    return lowered(artefacts, "full", streaming=False)


@pytest.fixture(scope="session")
def features_pte(artefacts: Path) -> Path:
    return lowered(artefacts, "features", task="features", vocabulary=None, hidden_layers=[6])


@pytest.fixture(scope="session")
def searching_pte(artefacts: Path) -> Path:
    """With a search of its own, whose language model is not beside it."""
    search = {"lm": "tiny.arpa", "lm_weight": 0.1, "beam_size": 20}
    return lowered(artefacts, "searching", search=search)


@pytest.fixture(scope="session")
def write_arpa() -> Callable[..., Path]:
    """``write(path, *words)``: a language model of them, the second likely after the first."""

    def write(path: Path, *words: str) -> Path:
        lines = ["\\data\\", f"ngram 1={len(words) + 3}", "ngram 2=1", "", "\\1-grams:"]
        lines += ["-2.0\t<unk>", "-99\t<s>\t0", "-0.9\t</s>"]
        lines += [f"-0.5\t{word}\t0" for word in words]
        lines += ["", "\\2-grams:", f"-0.1\t{words[0]} {words[1]}", "", "\\end\\"]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def altered(streaming_pte: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """The streaming artefact with a part of its card replaced by another of the same length."""

    def replace(old: str, new: str) -> Path:
        data = streaming_pte.read_bytes()
        assert len(old) == len(new)
        assert data.count(old.encode()) == 1
        path = tmp_path / "altered.pte"
        path.write_bytes(data.replace(old.encode(), new.encode()))
        return path

    return replace


@pytest.fixture
def words_pte(altered: Callable[[str, str], Path]) -> Path:
    """The streaming artefact, but each of its symbols is a word."""
    return altered('"word_boundary": "|"', '"word_boundary":null')
