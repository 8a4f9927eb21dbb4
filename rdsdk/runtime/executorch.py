"""The one door to ExecuTorch's Python binding: loaded late, quietly, with its threads set once."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any

from rdsdk.errors import ConfigError, ModelError

# cpuinfo writes the first on machines whose processor it cannot fully read, ExecuTorch the second
# whenever the number of threads is set: neither says anything to a user.
_NOISE = ("[cpuinfo_utils.cpp:", "[threadpool.cpp:")
FAULTS = (RuntimeError, MemoryError, IndexError, UnicodeDecodeError)
"""What the binding raises on a damaged program that it survives."""
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
    """What ExecuTorch logged while ``quiet`` was on."""

    lines: tuple[str, ...] = ()

    def last(self) -> str:
        """The last line that is not noise, as a ``: ...`` suffix; empty when there is none."""
        return ": " + self.lines[-1].strip() if self.lines else ""


@contextmanager
def quiet() -> Iterator[Said]:
    """Hold back what ExecuTorch logs, and pass on what is not noise.

    The binding sends its log to ``sys.stderr``. When the block fails nothing is passed on: the
    exception carries the reason. Used for the milliseconds of loading, never around a run, because
    what other threads write meanwhile waits too.
    """
    said = Said()
    kept = io.StringIO()
    failed = True
    with _lock:
        try:
            with redirect_stderr(kept):
                yield said
            failed = False
        finally:
            lines = [line for line in kept.getvalue().splitlines() if line.strip()]
            said.lines = tuple(line for line in lines if not line.startswith(_NOISE))
            if said.lines and not failed:
                print(*said.lines, sep="\n", file=sys.stderr, flush=True)


def load_program(data: bytes, path: Path) -> Any:
    """A program of the bytes of ``path``; they must outlive it, and all that is loaded from it.

    Raises:
        ModelError: ExecuTorch refuses it.
    """
    loader = binding()
    try:
        with quiet() as said:
            return loader._load_program_from_buffer(
                data, program_verification=loader.Verification.InternalConsistency
            )
    except FAULTS as error:
        raise ModelError(
            f"{path}: ExecuTorch refuses this program ({error}{said.last()}); "
            "copy or export it again"
        ) from None


def load_method(program: Any, name: str, path: Path) -> Any:
    """One of its methods, ready to be called with tensors.

    Raises:
        ModelError: it cannot be loaded here.
    """
    try:
        with quiet() as said:
            return program.load_method(name)
    except FAULTS as error:
        raise ModelError(
            f"{path}: its method {name} cannot be loaded ({error}{said.last()}); it is "
            "damaged, or needs a delegate or operator that this ExecuTorch does not have"
        ) from None


def method_names(program: Any, path: Path) -> list[str]:
    """The names of all methods, constant ones included.

    Raises:
        ModelError: they are not text.
    """
    try:
        return [program.get_method_name(i) for i in range(program.num_methods())]
    except FAULTS:
        raise ModelError(
            f"{path} is damaged: its method names are not text; copy or export it again"
        ) from None


def card_text(program: Any, path: Path) -> str:
    """What the constant method ``card`` gives.

    Raises:
        ModelError: it cannot be run, or gives no text.
    """
    card = load_method(program, "card", path)
    try:
        with quiet():
            values = card([])
    except FAULTS as error:
        raise ModelError(f"{path}: its card cannot be read ({error})") from None
    if len(values) != 1 or not isinstance(values[0], str):
        raise ModelError(f"{path}: its card is {values!r:.80}, expected one JSON text")
    return str(values[0])


def planned(program: Any, name: str, path: Path) -> tuple[list[Any], list[Any]]:
    """What is planned for the inputs and outputs of a method: each with ``sizes`` and ``dtype``.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with quiet():
            meta = program.method_meta(name)
            return (
                [meta.input_tensor_meta(i) for i in range(meta.num_inputs())],
                [meta.output_tensor_meta(i) for i in range(meta.num_outputs())],
            )
    except FAULTS as error:
        raise ModelError(f"{path}: its method {name} is unreadable ({error})") from None
