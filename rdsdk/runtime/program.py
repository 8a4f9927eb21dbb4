"""A loaded ``.pte``: its card and its methods, numpy in and numpy out, shared by many streams."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ModelError
from rdsdk.runtime import executorch
from rdsdk.runtime.artefact import read_artefact
from rdsdk.runtime.card import Card, Method

State = Mapping[str, np.ndarray]
_FLOAT = 6  # ExecuTorch's ScalarType of float32


class Output(NamedTuple):
    """One call of a method: log_probs (T, V) or None, hidden (T, D), and the state to go on."""

    log_probs: np.ndarray | None
    hidden: np.ndarray
    state: State


class Features(NamedTuple):
    """One call of ``features``: hidden (T, D) of each layer by its number from 1, and the state."""

    hidden: Mapping[int, np.ndarray]
    state: State


class Program:
    """A program loaded once. Its methods may be called from any thread; one call runs at a time.

    Args:
        path: a ``.pte`` file, read whole: replacing the file later changes nothing here.
        threads: processor threads for every program of this process; only the first program to be
            loaded can choose.

    Raises:
        ModelError: the file is missing, damaged, not an rdsdk artefact, of a newer version, or
            its program is not what its card says.
        ConfigError: ``threads`` comes too late or is below one.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.path = Path(path)
        # A program goes on with its search after the working folder has changed.
        self._folder = self.path.absolute().parent
        # The binding keeps a bare pointer into these bytes: they must outlive the program.
        self._data = read_artefact(self.path)
        self._lock = threading.Lock()
        if threads is not None:
            executorch.set_threads(threads)
        self._program = executorch.load_program(self._data, self.path)
        self.card_json = self._read_card()
        self.card = Card.from_json(self.card_json, source=str(self.path))
        for name in self.card.methods:
            self._check_signature(name)
        executorch.pool_is_used()
        # All of a program's methods share one arena of memory, so a second one costs little.
        self._methods = {
            name: executorch.load_method(self._program, name, self.path)
            for name in self.card.methods
        }
        self._silent: State | None = None

    @property
    def size_bytes(self) -> int:
        """The size of the artefact."""
        return len(self._data)

    @property
    def search(self) -> BeamSettings | None:
        """The search of the card, its files beside the artefact; None is greedily."""
        return None if self.card.search is None else self.card.search.beside(self._folder)

    def fresh_state(self) -> State:
        """The state of a stream that has heard nothing: zeros; empty for a full-context program."""
        return {name: np.zeros(shape, np.float32) for name, shape in self.card.state.items()}

    def silent_state(self) -> State:
        """The state of a streaming program after one chunk of silence, computed once.

        Raises:
            ModelError: the program failed.
        """
        if self._silent is None:
            silence = np.zeros(self.card.chunk_samples + self.card.overlap_samples, np.float32)
            self._silent = self.step(silence).state
        return self._silent

    def forward(self, waveform: np.ndarray, state: State | None = None) -> Output:
        """Run one block of samples (S,) float32 at 16 kHz.

        A streaming program takes whole chunks, 320 * chunk_frames * n + 80 samples, and the state
        that the previous call gave (None: fresh). T is (S - 80) // 320.

        Raises:
            ModelError: a length, shape or state the program does not take, or the run failed.
        """
        return self._output("forward", waveform, state)

    def step(self, waveform: np.ndarray, state: State | None = None) -> Output:
        """The same for exactly one chunk: 320 * chunk_frames + 80 samples.

        An artefact without a method of that name runs ``forward``.

        Raises:
            ModelError: as ``forward``, or a full-context program, which has no chunks.
        """
        if self.card.context is None:
            raise ModelError(f"{self.path} is a full-context model; it has no chunks to step by")
        return self._output("step" if "step" in self.card.methods else "forward", waveform, state)

    def features(self, waveform: np.ndarray, state: State | None = None) -> Features:
        """As ``forward``, for the hidden states of every layer that the artefact holds.

        Raises:
            ModelError: as ``forward``, or an artefact without that method.
        """
        if "features" not in self.card.methods:
            raise ModelError(
                f"{self.path} has the methods {sorted(self.card.methods)}, but not features; "
                "export it with --methods forward,features"
            )
        named = self._run("features", waveform, state)
        hidden = {layer: named[f"hidden_{layer}"][0] for layer in self.card.hidden_layers}
        return Features(hidden, {name: named[name] for name in self.card.state})

    def _output(self, method: str, waveform: np.ndarray, state: State | None) -> Output:
        named = self._run(method, waveform, state)
        log_probs = named.get("log_probs")
        return Output(
            None if log_probs is None else log_probs[0],
            named["hidden"][0],
            {name: named[name] for name in self.card.state},
        )

    def _run(self, name: str, waveform: np.ndarray, state: State | None) -> dict[str, np.ndarray]:
        """Call a method; its outputs by name, with their axis of one recording."""
        import torch

        method = self.card.methods[name]
        self._check_length(method, waveform)
        state = self.fresh_state() if state is None else state
        if {n: a.shape for n, a in state.items()} != dict(self.card.state):
            raise ModelError(
                f"{self.path}: got a state of shapes { {n: a.shape for n, a in state.items()} }, "
                f"expected {dict(self.card.state)}"
            )
        arrays = [waveform[None], *(state[name] for name in self.card.state)]
        # The binding takes writable float32 tensors that lie dense in memory.
        inputs = [torch.from_numpy(np.require(a, np.float32, ["C", "W", "A"])) for a in arrays]
        with self._lock:
            try:
                outputs = self._methods[name](inputs)
            except executorch.FAULTS as error:
                raise ModelError(f"{self.path}: the program failed to run: {error}") from error
        return {name: out.numpy() for name, out in zip(method.outputs, outputs, strict=True)}

    def _check_length(self, method: Method, waveform: np.ndarray) -> None:
        context = self.card.context
        samples = waveform.shape[0] if waveform.ndim == 1 else -1
        advance = samples - self.card.overlap_samples
        whole = context is None or advance % self.card.chunk_samples == 0
        if not method.min_samples <= samples <= method.max_samples or not whole:
            chunks = "" if context is None else f" in whole chunks of {context.chunk_frames} frames"
            raise ModelError(
                f"{self.path}: got a waveform of shape {waveform.shape}, expected (S,) with "
                f"{method.min_samples} to {method.max_samples} samples{chunks}"
            )

    def _read_card(self) -> str:
        names = executorch.method_names(self._program, self.path)
        if "card" not in names:
            raise ModelError(
                f"{self.path} is an ExecuTorch program, but not one of rdsdk: it has the methods "
                f"{sorted(names)} and no card; export one with rdsdk export"
            )
        return executorch.card_text(self._program, self.path)

    def _check_signature(self, method: str) -> None:
        """The lowered method must take and give what the card says: a wrong shape would abort."""
        card, expected = self.card, self.card.methods[method]
        inputs, outputs = executorch.planned(self._program, method, self.path)
        frames = (expected.max_samples - card.overlap_samples) // card.hop_samples
        wanted_inputs = [(1, expected.max_samples), *card.state.values()]
        symbols = None if card.vocabulary is None else len(card.vocabulary)
        wanted_outputs: list[tuple[int | None, ...]] = [
            card.state.get(name, (1, frames, symbols if name == "log_probs" else None))
            for name in expected.outputs
        ]
        for what, names, got, wanted in (
            ("input", expected.inputs, inputs, wanted_inputs),
            ("output", expected.outputs, outputs, wanted_outputs),
        ):
            shapes = [tuple(info.sizes()) for info in got]
            if len(shapes) != len(wanted):
                raise ModelError(
                    f"{self.path}: its method {method} has {len(shapes)} {what}s, its card names "
                    f"{len(wanted)}: {list(names)}; export the model again"
                )
            for name, info, shape, want in zip(names, got, shapes, wanted, strict=True):
                if info.dtype() != _FLOAT or not _fits(shape, want, longer=name not in card.state):
                    raise ModelError(
                        f"{self.path}: the {what} {name} of its method {method} is planned as "
                        f"{shape} (type {info.dtype()}), its card says {want} of float32; export "
                        "the model again"
                    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...], longer: bool) -> bool:
    # Planned sizes are upper bounds: in time, more room than the card asks for is fine.
    if len(shape) != len(wanted):
        return False
    return all(
        want is None or got == want or (longer and axis == 1 and got > want)
        for axis, (got, want) in enumerate(zip(shape, wanted, strict=True))
    )
