"""The development sets of a digit corpus: the one speaker kept out, and ordinary speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rdsdk.data.acoustics import SAMPLE_RATE, fade, set_level
from rdsdk.data.digit_sources import FSDD, digit_recordings, read_rows
from rdsdk.data.word_clips import DIGITS, free_of_digits, read_mono


def make_dev(
    digits: Path, speaker: str, out: Path, seed: int, isolated: int, strings: int
) -> list[dict[str, Any]]:
    """The development speaker: single digits as recorded, and strings of 3 to 8 of them.

    Each row's alignment says where its words are: a recorded digit is cut off tightly, so it is
    taken as spoken from its first sample to its last.
    """
    rng = np.random.default_rng([seed, 2_000_000])
    by_digit: dict[str, list[Path]] = {}
    for word, path in digit_recordings(digits)[speaker]:
        by_digit.setdefault(word, []).append(path)
    (out / "dev").mkdir(parents=True, exist_ok=True)
    rows = []
    words = sorted(by_digit, key=DIGITS.index)
    for number in range(isolated + strings):
        if number < isolated:
            paths = by_digit[word := words[number % len(words)]]
            said, name = [word], f"dev-isolated-{number:03d}"
            # Every recording once before any twice.
            waveform = read_mono(paths[number // len(words) % len(paths)])
            alignment = [_spoken(word, 0, len(waveform))]
        else:
            said = [str(w) for w in rng.choice(words, int(rng.integers(3, 9)))]
            name = f"dev-string-{number - isolated:03d}"
            pieces, alignment = [np.zeros(3200, np.float32)], []
            for word in said:
                path = by_digit[word][int(rng.integers(len(by_digit[word])))]
                start = sum(map(len, pieces))
                pieces.append(fade(set_level(read_mono(path), -27)))
                alignment.append(_spoken(word, start, len(pieces[-1])))
                pieces.append(np.zeros(round(rng.uniform(0.03, 0.6) * SAMPLE_RATE), np.float32))
            waveform = np.concatenate(pieces)
        row = _dev_row(out, name, waveform, " ".join(said), speaker, *FSDD)
        rows.append({**row, "alignment": alignment})
    return rows


def make_dev_negative(
    manifests: Sequence[Path], out: Path, seed: int, most: int = 200
) -> list[dict[str, Any]]:
    """Ordinary speech without any digit word, from the development manifests, as it is."""
    rows = [row for path in manifests for row in read_rows(path)]
    rows = [r for r in rows if str(r["text"]).strip() and free_of_digits(str(r["text"]).split())]
    rng = np.random.default_rng([seed, 3_000_000])
    chosen = [rows[i] for i in rng.permutation(len(rows))[:most]]
    (out / "dev").mkdir(parents=True, exist_ok=True)
    return [
        _dev_row(
            *(out, f"dev-negative-{row['id']}", read_mono(Path(row["audio"])), ""),
            *(str(row["speaker"]), str(row["source"]), str(row["licence"])),
        )
        for row in chosen
    ]


def _spoken(word: str, start: int, samples: int) -> list[Any]:
    return [word, round(start / SAMPLE_RATE, 4), round((start + samples) / SAMPLE_RATE, 4)]


def _dev_row(
    out: Path, name: str, waveform: np.ndarray, text: str, speaker: str, source: str, licence: str
) -> dict[str, Any]:
    audio = f"dev/{name}.flac"
    soundfile.write(out / audio, waveform, SAMPLE_RATE, subtype="PCM_16")
    seconds = round(len(waveform) / SAMPLE_RATE, 4)
    row = {"id": name, "audio": audio, "seconds": seconds, "text": text}
    return {**row, "speaker": speaker, "source": source, "licence": licence}
