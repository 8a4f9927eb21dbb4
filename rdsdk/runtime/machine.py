"""The machine that a figure was measured on, and the memory of this process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("rdsdk", "executorch", "torch", "numpy")
_STATUS = Path("/proc/self/status")


def usable_cores() -> int:
    """Cores that this process may run on; fewer than the machine has where it was confined."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, memory, system, versions and how busy the machine is: a JSON value.

    ``load_average`` is the system's of the last minute, before anything is measured: well above
    zero, other work disturbs the figures. What a system does not tell is None.
    """
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_mb": _memory_mb(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def resident_mb() -> float | None:
    """What this process holds in memory now; None where the system does not tell (no Linux)."""
    return _status_mb("VmRSS")


def peak_resident_mb() -> float | None:
    """The most memory this process ever held; None on a system that does not tell (Windows).

    On Linux not from ``getrusage``: its value starts at that of the process that started this one.
    """
    if _STATUS.is_file():
        return _status_mb("VmHWM")
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _status_mb(name: str) -> float | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    return None


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if known.is_file():
        for line in known.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    if sys.platform == "darwin":
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        )
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def _memory_mb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (AttributeError, ValueError, OSError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
