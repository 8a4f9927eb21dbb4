"""Listens to the microphone "pulse" in a process of its own: PortAudio finds the sound system that
was there when it was loaded. Writes what it heard and prints how it ended, as JSON.

    python listen.py OUT.npy SECONDS [STALL_AFTER STALL_SECONDS]
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from rdsdk.audio.microphone import Microphone
from rdsdk.errors import DeviceError

out, seconds = sys.argv[1], float(sys.argv[2])
stall_after, stall_seconds = (*map(float, sys.argv[3:5]), np.inf, 0.0)[:2]
microphone = Microphone("pulse", queue_seconds=1.0, watchdog_seconds=2.0)
blocks, heard, error = [], 0.0, None
try:
    with microphone:
        print("listening", flush=True)
        for block in microphone:
            blocks.append(block)
            heard += len(block) / 16_000
            if heard >= stall_after:
                stall_after = np.inf
                time.sleep(stall_seconds)
            if heard >= seconds:
                microphone.stop()
except DeviceError as caught:
    error = str(caught)
np.save(out, np.concatenate(blocks) if blocks else np.zeros(0, np.float32))
print(
    json.dumps(
        {
            "error": error,
            "rate": microphone.sample_rate,
            "dropped_seconds": microphone.dropped_seconds,
            "name": microphone.name,
        }
    )
)
