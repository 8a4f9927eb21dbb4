"""``rdsdk doctor``: is everything there that listening needs, and does the microphone hear?"""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np

from rdsdk.audio.microphone import InputDevice, Microphone, SilentMicrophoneWarning, input_devices
from rdsdk.audio.samples import SAMPLE_RATE
from rdsdk.commands.live import meter
from rdsdk.errors import DeviceError, ModelError
from rdsdk.runtime.recognizer import bundled_models, load

_QUIET_DBFS = -60.0
_LOUD_PEAK = 0.99


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``rdsdk doctor``."""
    parser.add_argument("--device", help="which microphone to try: a number or a part of a name")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="how long to listen (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at models, devices and a second of sound, and say of each what is wrong.

    Returns:
        0 when a microphone was heard, 2 when something has to be mended.
    """
    _models()
    try:
        devices = input_devices()
    except DeviceError as error:
        return _wrong(str(error))
    if not devices:
        return _wrong(
            "this machine has no sound input; plug a microphone in, or start the sound server "
            "(inside a container there is none unless it is passed in)"
        )
    for device in devices:
        print(_line(device))
    return _listen(arguments.device, arguments.seconds)


def _models() -> None:
    for name, path in bundled_models().items():
        try:
            card = load(path).card
        except ModelError as error:
            _wrong(str(error))
            continue
        print(
            f"model {name}: {card.language}, {card.precision}, {path.stat().st_size / 1e6:.1f} MB"
        )


def _line(device: InputDevice) -> str:
    mark = "*" if device.is_default else " "
    return (
        f"input {mark}{device.index:3}  {device.name}  ({device.host}, {device.channels} channels, "
        f"{device.sample_rate:.0f} Hz)"
    )


def _listen(device: str | None, seconds: float) -> int:
    heard, wanted = [np.zeros(0, np.float32)], max(0.1, seconds) * SAMPLE_RATE
    microphone = Microphone(device)
    try:
        with microphone, warnings.catch_warnings():
            warnings.simplefilter("ignore", SilentMicrophoneWarning)
            print(f"listening to {microphone.name} at {microphone.sample_rate} Hz ...", flush=True)
            for block in microphone:
                heard.append(block)
                if sum(map(len, heard)) >= wanted:
                    microphone.stop()
    except DeviceError as error:
        return _wrong(str(error))
    waveform = np.concatenate(heard)
    peak = float(np.abs(waveform).max(initial=0.0))
    power = float(np.square(waveform, dtype=np.float64).mean()) if len(waveform) else 0.0
    if power == 0.0:
        return _wrong(
            f"{microphone.name} gives nothing but zeros: it is muted, or the system does not let "
            "this program listen (look at its privacy settings)"
        )
    level = 10 * np.log10(power)
    print(f"level {meter(level)} {level:.0f} dB of full scale, peak {peak:.2f}")
    if peak >= _LOUD_PEAK:
        return _wrong("the sound is clipped: turn the microphone's gain down")
    if level < _QUIET_DBFS:
        return _wrong("hardly anything is heard: speak, come nearer, or turn the gain up")
    if microphone.overflows or microphone.underflows or microphone.dropped_seconds:
        return _wrong("sound was lost: this machine is too busy to listen")
    print("the microphone is heard")
    return 0


def _wrong(text: str) -> int:
    print(f"wrong: {text}", file=sys.stderr, flush=True)
    return 2
