"""Typed errors. Each message says what was got, what was expected and what to do next."""

from __future__ import annotations


class RdsdkError(Exception):
    """Base of every error this package raises on purpose; the CLI turns it into exit code 2."""


class AudioError(RdsdkError):
    """A recording cannot be read, or holds something that is not sound (no samples, NaN, text)."""


class DeviceError(RdsdkError):
    """A microphone cannot be opened or has gone away."""


class ModelError(RdsdkError):
    """An artefact (``.pte``) cannot be loaded or asked for something it does not hold."""


class CheckpointError(RdsdkError):
    """A checkpoint folder or a published checkpoint is damaged, incomplete or of another shape."""


class ExportError(RdsdkError):
    """Lowering failed, or the lowered artefact does not do what the checkpoint does."""


class ConfigError(RdsdkError):
    """A configuration names something unknown or asks for something impossible."""


class TrainingError(RdsdkError):
    """A run cannot go on: its loss is not a number; nothing was updated by that batch."""


class DataError(RdsdkError):
    """A manifest or a corpus folder does not hold what training or evaluation needs."""
