"""A corpus small enough to learn in seconds: each letter is a tone, each word a melody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from rdsdk.data.batch import Batch

# Under --import-mode=importlib a test cannot import its neighbours without this.
sys.path.insert(0, str(Path(__file__).parent))

TONES = {"A": 400.0, "B": 900.0, "C": 1600.0}
LETTER_SECONDS = 0.16


def melody(text: str, rng: np.random.Generator) -> np.ndarray:
    pieces = [np.zeros(1600)]
    for letter in text:
        frequency = TONES.get(letter, 0.0)
        time = np.arange(int(LETTER_SECONDS * 16_000)) / 16_000
        pieces += [0.3 * np.sin(2 * np.pi * frequency * time), np.zeros(640)]
    waveform = np.concatenate([*pieces, np.zeros(1600)])
    return (waveform + 0.003 * rng.normal(size=len(waveform))).astype(np.float32)


def alignment(text: str) -> list[list[object]]:
    """When each letter of a melody sounds: [[letter, start, end], ...] in seconds."""
    starts = [0.1 + index * (LETTER_SECONDS + 0.04) for index in range(len(text))]
    return [
        [letter, round(start, 3), round(start + LETTER_SECONDS, 3)]
        for letter, start in zip(text, starts, strict=True)
    ]


def write_corpus(folder: Path, clips: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(clips):
        letters = rng.choice(list(TONES), size=rng.integers(1, 5))
        text = "" if index % 6 == 5 else "".join(letters)
        waveform = melody(text, rng) if text else 0.01 * rng.normal(size=9000)
        soundfile.write(folder / f"{seed}-{index}.flac", waveform, 16_000)
        rows.append(
            {
                "id": f"melody-{seed}-{index}",
                "audio": f"{seed}-{index}.flac",
                "seconds": len(waveform) / 16_000,
                "text": text,
                "speaker": "piano",
                "alignment": alignment(text),
            }
        )
    manifest = folder / f"corpus-{seed}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("melodies")
    return write_corpus(folder, 48, 0), write_corpus(folder, 12, 1)


@pytest.fixture
def sound() -> Batch:
    """Two rows of noise, one shorter, without texts."""
    torch.manual_seed(3)
    counts = torch.tensor([16_080, 9_680])
    waveforms = torch.randn(2, 16_080)
    waveforms[1, 9_680:] = 0.0
    nothing = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    return Batch(waveforms, counts, *nothing, ["a", "b"], ["", ""])


@pytest.fixture
def recipe(corpus: tuple[Path, Path], tmp_path: Path) -> Path:
    train, dev = corpus
    file = tmp_path / "melodies.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "train": [str(train)],
                "dev": [str(dev)],
                "output": str(tmp_path / "run"),
                "student": {"preset": "tiny", "dropout": 0.0},
                "batch_seconds": 8,
                "validate_every_steps": 4,
                "save_every_steps": 2,
                "optimisation": {"steps": 8, "warmup_steps": 2, "average_decay": 0.5},
                "regularisation": {"chunk_frames": [4, 8, None]},
                "augmentation": {"gain_probability": 0.5, "speed_probability": 0.5},
                "hardware": {"accelerator": "cpu", "devices": 1, "workers": 0},
                "licence": "CC0",
                "training_data": ["melodies"],
            }
        )
    )
    return file
