"""Many synthetic English voices: espeak-ng, flite and festival, each a program of its own.

A voice is a command line and nothing else, so that it can be looked at, tested and repeated.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdsdk.data.word_clips import read_mono
from rdsdk.errors import ConfigError, DataError

# program -> the Debian packages that bring it and the voices below
PROGRAMS = {
    "espeak-ng": "espeak-ng",
    "flite": "flite",
    "text2wave": "festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts",
}
_ACCENTS = (
    "en-us en-us en-us en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029 "
    "en-us-nyc"
)
ACCENTS = tuple(_ACCENTS.split())
_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 croak klatt klatt2 klatt3 klatt4 klatt5 klatt6 "
    "whisper adam Alex Alicia Andrea Andy Annie antonio aunty belinda benjamin boris caleb "
    "david Denis Diogo ed edward Gene gustave Henrique Hugo iven iven2 Jacky john Lee linda "
    "marcelo Marco Mario max Michael michel miguel Mike Nguyen norbert pablo paul pedro "
    "quincy rob robert sandro shelby steph steph2 steph3 travis victor zac anika grandma "
    "grandpa"
)
VARIANTS = tuple(_VARIANTS.split())
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
FESTIVAL_VOICES = ("voice_kal_diphone", "voice_ked_diphone", "voice_cmu_us_slt_arctic_hts")


@dataclass(frozen=True)
class Voice:
    """One voice at one pitch and rate. ``pitch`` is the program's own scale: 0..99 for espeak-ng,
    a mean in Hz for flite, unused by festival. ``rate`` 1.0 is the voice's usual speed."""

    program: str
    name: str
    pitch: int
    rate: float

    @property
    def speaker(self) -> str:
        """A name that tells voices apart but not their speeds."""
        return f"{self.program}-{self.name.removeprefix('voice_')}-p{self.pitch}"

    def command(self, text: str, out: Path) -> list[str]:
        """The command that writes ``text`` spoken to the WAV file ``out``. festival reads the text
        from its standard input."""
        if self.program == "espeak-ng":
            speed = str(round(165 * self.rate))
            return [
                *("espeak-ng", "-v", self.name, "-p", str(self.pitch), "-s", speed),
                *("-w", str(out), "--", text),
            ]
        stretch = f"{1 / self.rate:.3f}"
        if self.program == "flite":
            return [
                *("flite", "-voice", self.name, "--setf", f"duration_stretch={stretch}"),
                *("--setf", f"int_f0_target_mean={self.pitch}", "-t", text, "-o", str(out)),
            ]
        return [
            *("text2wave", "-eval", f"({self.name})"),
            *("-eval", f"(Parameter.set 'Duration_Stretch {stretch})", "-o", str(out)),
        ]


def require_programs(programs: Sequence[str] = tuple(PROGRAMS)) -> None:
    """Make sure that these synthesisers are installed.

    Raises:
        ConfigError: one is not on the PATH; the message names the packages to install.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(PROGRAMS[program] for program in missing)
        raise ConfigError(
            f"synthetic voices need {', '.join(missing)}, not found on the PATH; "
            f"run `apt-get install {packages}`, or ask for no synthetic voices"
        )


def draw_voice(rng: np.random.Generator) -> Voice:
    """A random voice: mostly espeak-ng, which has the most, a quarter flite, some festival."""
    rate = float(rng.uniform(0.75, 1.35))
    chance = rng.random()
    if chance < 0.62:
        name = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
        return Voice("espeak-ng", name, int(rng.integers(15, 90)), rate)
    if chance < 0.88:
        return Voice("flite", str(rng.choice(FLITE_VOICES)), int(rng.integers(85, 220)), rate)
    return Voice("text2wave", str(rng.choice(FESTIVAL_VOICES)), 0, rate)


def speak(voice: Voice, text: str) -> np.ndarray:
    """``text`` in ``voice``, float32 at 16 kHz, (S,).

    Raises:
        ConfigError: the program is not installed.
        DataError: the program failed or gave no sound.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "spoken.wav"
        command = voice.command(text.lower(), out)
        try:
            done = subprocess.run(
                command, input=text.lower(), capture_output=True, text=True, timeout=60, check=False
            )
        except FileNotFoundError as error:
            raise ConfigError(
                f"{command[0]} is not installed; run `apt-get install {PROGRAMS[voice.program]}`"
            ) from error
        if done.returncode != 0 or not out.exists():
            raise DataError(
                f"{' '.join(command)} ended with status {done.returncode} and no sound: "
                f"{done.stderr.strip()[-200:]}"
            )
        waveform = read_mono(out)
    if np.abs(waveform).max(initial=0.0) < 1e-4:
        raise DataError(f"{' '.join(command)} gave only silence")
    return waveform
