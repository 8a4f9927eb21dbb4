"""A sound system without sound hardware: PulseAudio with a sink that plays into nothing, whose
monitor is the default microphone. What is played into it is heard through PortAudio."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("pulseaudio", "pactl", "paplay")


@dataclass
class Pulse:
    """A running server; ``environment`` is what its clients need."""

    environment: dict[str, str]

    def play(self, path: Path) -> subprocess.Popen[bytes]:
        """Play a file into the sink, from now on; ends with the file."""
        return subprocess.Popen(["paplay", "--device=spk", str(path)], env=self.environment)

    def control(self, *arguments: str) -> None:
        subprocess.run(["pactl", *arguments], env=self.environment, check=True, timeout=20)

    def unplug(self) -> None:
        """Take the only sink away, and the microphone with it."""
        self.control("unload-module", "module-null-sink")


def require_sound_system() -> None:
    """Skip where there is none to be had; fail where the run says that it must be there."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and not os.environ.get("RDSDK_REQUIRE_PULSE"):
        pytest.skip(
            f"no {', '.join(missing)} here: the microphone is tested with a fake device only"
        )
    assert not missing, f"{missing} must be installed for this run"


@contextmanager
def pulse_server(rate: int) -> Iterator[Pulse]:
    """A server with a mono sink at ``rate`` Hz; children that are given its environment hear it."""
    require_sound_system()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "HOME": folder}
        environment.pop("PULSE_SERVER", None)
        Path(folder).chmod(0o700)
        server = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--log-level=error"),
                *("-L", f"module-null-sink sink_name=spk rate={rate} channels=1"),
                *("-L", "module-native-protocol-unix"),
            ],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            pulse = Pulse(environment)
            for attempt in range(50):
                done = subprocess.run(
                    ["pactl", "set-default-source", "spk.monitor"],
                    env=environment,
                    capture_output=True,
                    check=False,
                )
                if done.returncode == 0:
                    break
                assert server.poll() is None, "pulseaudio did not start"
                assert attempt < 49, done.stderr.decode()
                time.sleep(0.1)
            yield pulse
        finally:
            server.terminate()
            server.wait(10)
