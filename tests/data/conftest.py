"""Sound made for these tests."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000


@pytest.fixture
def noise_folder(tmp_path: Path) -> Path:
    """Half a second of 3 kHz (1-rain) and of 5 kHz (5-rain)."""
    (tmp_path / "rain").mkdir()
    times = np.arange(RATE // 2) / RATE
    for name, hertz in (("1-rain", 3_000.0), ("5-rain", 5_000.0)):
        tone = 0.5 * np.sin(2 * np.pi * hertz * times)
        soundfile.write(tmp_path / "rain" / f"{name}.wav", tone, RATE)
    (tmp_path / "rain" / "notes.txt").write_text("no sound")
    return tmp_path
