"""The one door to ExecuTorch's Python binding: loaded late, quietly, with its threads set once."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from rdsdk.errors import ConfigError, ModelError

# cpuinfo writes the first on machines whose processor it cannot fully read, ExecuTorch the second
# whenever the number of threads is set: neither says anything to a user.
_NOISE = (b"[cpuinfo_utils.cpp:", b"[threadpool.cpp:")
_lock = threading.RLock()
_threads: int | None = None
_pool_in_use = False


def binding() -> ModuleType:
    """ExecuTorch's compiled binding.

    Taken directly and not through ``executorch.runtime``, which imports the whole exporter and
    torchao with it: four seconds and a page of warnings about CUDA libraries.

    Raises:
        ModelError: executorch or torch is not installed, or not for this platform.
    """
    try:
        import torch  # noqa: F401  (the binding's libraries are resolved by torch's)
        from executorch.extension.pybindings import _C
    except ImportError as error:
        raise ModelError(
            f"ExecuTorch cannot be loaded ({error}); reinstall it: pip install --force-reinstall "
            "'executorch==1.5.*' 'torch==2.13.*'"
        ) from error
    return _C


def set_threads(threads: int) -> None:
    """Give ExecuTorch this many threads, for every program of the process.

    Raises:
        ConfigError: fewer than one, or a program has already run with another number.
    """
    global _threads
    if threads < 1:
        raise ConfigError(f"threads is {threads}, expected at least 1")
    with _lock:
        if threads == _threads:
            return
        if _pool_in_use:
            had = "the default" if _threads is None else str(_threads)
            raise ConfigError(
                f"threads={threads} comes too late: a program of this process already runs with "
                f"{had}; set the same number everywhere, or set it first"
            )
        with quiet():
            binding()._unsafe_reset_threadpool(threads)
        _threads = threads


def pool_is_used() -> None:
    """Remember that from now on the threads cannot be changed safely."""
    global _pool_in_use
    _pool_in_use = True


class Said:
    """What native code wrote to the error stream while ``quiet`` was on."""

    lines: tuple[bytes, ...] = ()

    def last(self) -> str:
        """The last line that is not noise, as a ``: ...`` suffix; empty when there is none."""
        return ": " + self.lines[-1].decode(errors="replace").strip() if self.lines else ""


@contextmanager
def quiet() -> Iterator[Said]:
    """Hold back what native code writes to file descriptor 2, and pass on what is not noise.

    Python's own ``sys.stderr`` cannot catch it. When the block fails nothing is passed on: the
    exception carries the reason. Used for the few milliseconds of loading, never around a run.
    """
    said = Said()
    with _lock, tempfile.TemporaryFile() as kept:
        try:
            screen = os.dup(2)
        except OSError:  # a service without an error stream: nothing to keep clean
            yield said
            return
        failed = True
        try:
            os.dup2(kept.fileno(), 2)
            yield said
            failed = False
        finally:
            os.dup2(screen, 2)
            os.close(screen)
            kept.seek(0)
            lines = [line for line in kept.read().splitlines(keepends=True) if line.strip()]
            said.lines = tuple(line for line in lines if not line.startswith(_NOISE))
            if said.lines and not failed:
                os.write(2, b"".join(said.lines))
