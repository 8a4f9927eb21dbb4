"""Recordings of noise: read to be mixed with speech, or as a corpus in which nobody speaks.

``rdsdk prepare noises FOLDER --out data/noises`` makes such a corpus. A recogniser that has heard
nothing but speech hears words in rain; from recordings without words it learns to hear none.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from rdsdk.audio.files import ForwardFile
from rdsdk.data.acoustics import SAMPLE_RATE
from rdsdk.data.telling import tell_error
from rdsdk.errors import ConfigError, DataError, RdsdkError
from rdsdk.outputs import require_folder

Waveform = NDArray[np.float32]

# An hour as 16-bit samples is 115 MB, in each loader process on systems that cannot fork.
NOISE_SECONDS_MAX = 3_600.0
NOISE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})
_SHORTEST_SECONDS = 0.5


class Noise(NamedTuple):
    """A recording of noise: (S,) samples at 16 kHz, whether it goes on behind a fault, and how long
    it says that it is."""

    samples: NDArray[np.int16]
    damaged: bool
    said_seconds: float

    @property
    def seconds(self) -> float:
        """Of what was read."""
        return len(self.samples) / SAMPLE_RATE


class Corpus(NamedTuple):
    """What was written of a folder of noises."""

    recordings: int
    seconds: float
    cut: list[str]
    """The recordings of which a part is missing, and why, for people."""


@functools.lru_cache(maxsize=4)
def load_noises(folder: str, pattern: str = "**/*") -> Sequence[NDArray[np.int16]]:
    """Every recording under ``folder`` that matches ``pattern``, 16 kHz mono, 16 bit, read once.

    Of more than an hour, an even selection of an hour is kept, and said so.

    Raises:
        DataError: the folder is missing, or holds nothing audible that soundfile reads.
    """
    files = noise_files(Path(folder), pattern)
    seconds = sum(_noise_seconds(file) for file in files)
    step = max(1.0, seconds / NOISE_SECONDS_MAX)
    kept = [files[int(index * step)] for index in range(int(len(files) / step))] or files[:1]
    if len(kept) < len(files):
        warnings.warn(
            f"{folder} holds {seconds / 3600:.1f} h of noise; {len(kept)} of {len(files)} "
            "recordings are used, as noise is kept in memory",
            stacklevel=2,
        )
    noises = {file: read_noise(file) for file in kept}
    damaged = [file for file, noise in noises.items() if noise.damaged]
    if damaged:
        warnings.warn(
            f"{len(damaged)} of {len(kept)} noise recordings of {folder} are damaged and end "
            f"early, the first is {damaged[0]}",
            stacklevel=2,
        )
    audible = tuple(noise.samples for noise in noises.values() if noise.samples.any())
    if not audible:
        raise DataError(f"all {len(kept)} noise recordings of {folder} are silent or empty")
    return audible


def noise_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The recordings under ``folder`` that match ``pattern``, in order.

    Raises:
        DataError: there is no such folder, or none of them.
        ConfigError: the pattern selects no files of a folder, as "" or an absolute one.
    """
    if not folder.is_dir():
        raise DataError(f"there is no noise folder {folder}; give a folder of recordings")
    try:
        found = list(folder.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{pattern!r} does not select files of a folder: {error}") from None
    files = sorted(file for file in found if file.suffix.lower() in NOISE_SUFFIXES)
    if not files:
        raise DataError(
            f"{folder} holds no recordings matching {pattern!r} ({sorted(NOISE_SUFFIXES)})"
        )
    return files


def read_noise(file: Path) -> Noise:
    """A recording to its end or to its first fault, of an hour at most: half a noise is still one.

    Raises:
        DataError: soundfile does not read it.
    """
    blocks: list[Waveform] = []
    damaged = False
    try:
        opened = ForwardFile(file)
    except soundfile.SoundFileError as error:
        raise _unreadable(file, error) from error
    with opened:
        rate, left = opened.samplerate, int(NOISE_SECONDS_MAX * opened.samplerate)
        said_seconds = opened.frames / rate
        try:
            # In tenths of a second, as the block with the fault is lost.
            while left > 0 and len(block := opened.read(min(rate // 10, left), "float32", True)):
                blocks.append(block.mean(axis=1))
                left -= len(block)
        except soundfile.SoundFileError:
            damaged = True
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if rate != SAMPLE_RATE and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    samples = np.round(np.clip(mono, -1.0, 1.0) * 32_767).astype(np.int16)
    return Noise(samples, damaged, said_seconds)


def noise_stretch(noise: NDArray[np.int16], samples: int, place: float) -> Waveform:
    """``samples`` of 16-bit noise from ``place`` in [0, 1) on, going round when it ends."""
    start = int(place * len(noise))
    turns = -(-(start + samples) // len(noise))
    looped = noise if turns == 1 else np.tile(noise, turns)
    return looped[start : start + samples].astype(np.float32) / np.float32(32_768)


def make_corpus(
    folder: Path, pattern: str, out: Path, longest_seconds: float, about: dict[str, str]
) -> Corpus:
    """Write ``out/noises.jsonl`` with FLAC copies.

    Each says that it has no words, and when its symbols are spoken: never. What is longer than
    ``longest_seconds`` becomes pieces of equal length; what is shorter than half a second is left
    out, and so is what lies behind a fault or beyond an hour.

    Raises:
        DataError: there are no such recordings, or one of them cannot be read.
        ConfigError: ``longest_seconds`` is below a second, or ``out`` is a file.
    """
    if not longest_seconds >= 1:
        raise ConfigError(f"longest_seconds is {longest_seconds}, expected 1 or more")
    require_folder(out)
    files = noise_files(folder, pattern)
    (out / "audio").mkdir(parents=True, exist_ok=True)
    rows, samples_written, cut = [], 0, []
    for number, file in enumerate(track(files, "noises", console=Console(stderr=True))):
        noise = read_noise(file)
        samples = noise.samples
        if noise.damaged:
            cut.append(f"{file} is damaged, {noise.seconds:.1f} s of it could be read")
        elif noise.said_seconds > NOISE_SECONDS_MAX:
            cut.append(f"of {file}, {noise.said_seconds / 3600:.1f} hours, the first is taken")
        if len(samples) < _SHORTEST_SECONDS * SAMPLE_RATE:
            continue
        count = math.ceil(len(samples) / (longest_seconds * SAMPLE_RATE))
        for piece, heard in enumerate(np.array_split(samples, count)):
            # Numbered, as folders may have recordings of one name.
            name = f"noise-{number:05d}-{file.stem}-{piece}"
            soundfile.write(out / "audio" / f"{name}.flac", heard, SAMPLE_RATE, subtype="PCM_16")
            seconds = round(len(heard) / SAMPLE_RATE, 4)
            row = {"id": name, "audio": f"audio/{name}.flac", "seconds": seconds}
            rows.append({**row, "text": "", "alignment": [], **about})
            samples_written += len(heard)
    if not rows:
        raise DataError(f"no recording of {folder} is {_SHORTEST_SECONDS} seconds long")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (out / "noises.jsonl").write_text(text, encoding="utf-8")
    return Corpus(len(rows), samples_written / SAMPLE_RATE, cut)


def _noise_seconds(file: Path) -> float:
    try:
        return float(soundfile.info(file).duration)
    except soundfile.SoundFileError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: soundfile.SoundFileError) -> DataError:
    return DataError(f"{file} is not a recording soundfile reads: {error}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="rdsdk prepare noises",
        description="Write recordings of noise as a corpus in which nobody speaks.",
    )
    add = made.add_argument
    add("folder", type=Path, help="recordings in which nobody speaks, at any depth")
    add("--pattern", default="**/*", metavar="GLOB", help="which of them (default: all)")
    add("--out", type=Path, required=True, help="folder to write audio and noises.jsonl to")
    add(
        "--longest-seconds",
        type=float,
        default=10.0,
        help="longer ones are cut into pieces (default: %(default)g)",
    )
    add("--source", help="where they are from, for the manifest")
    add("--licence", help="theirs, for the manifest")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the corpus is made, 2 when an input is wrong."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True)
    named = {"source": options.source, "licence": options.licence}
    about = {key: value for key, value in named.items() if value is not None}
    try:
        made = make_corpus(
            options.folder, options.pattern, options.out, options.longest_seconds, about
        )
    except RdsdkError as error:
        tell_error(error)
        return 2
    if made.cut:
        told = f"warning: {len(made.cut)} there in part only; the first: {made.cut[0]}"
        console.print(told, style="yellow", markup=False, highlight=False)
    console.print(f"{made.recordings} recordings without words, {made.seconds / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
