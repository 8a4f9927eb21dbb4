"""A package in Core ML itself, beside the interpreter; only macOS has it.

Nothing here ran on a Mac yet: the tests put a stand-in in the place of coremltools' ``MLModel``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobile_export.agreement import snr_db
from mobile_export.coreml_conversion import coremltools
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_programs import FORWARD, SAMPLE_COUNT, STEP, WAVEFORM
from mobile_export.coreml_verify import MINIMUM_SNR_DB, chunks, function_names, recordings
from rdsdk.models.config import EncoderConfig
from rdsdk.models.extractor import frame_count

MAC_SNR_DB = 30.0
"""Least agreement of Core ML with the interpreter in float16: other sums, the same rounding."""


def in_core_ml(path: Path, card: Mapping[str, Any], config: EncoderConfig) -> dict[str, Any]:
    """Run a package in Core ML on the processor and compare it with the interpreter.

    Returns:
        ``ran``, and ``worst_snr_db`` and ``calls`` where it ran, ``why`` where not; ``faults`` are
        sentences.
    """
    if sys.platform != "darwin":
        return {"ran": False, "why": f"Core ML exists on macOS, this is {sys.platform}"}
    interpreter = Interpreter(path)
    names = function_names(interpreter, card)
    ratios: list[float] = []
    for name, own in names.items():
        model = _model(path, own if len(names) > 1 else None)
        if name == FORWARD:
            for _, waveform, samples in recordings(card):
                inputs = {WAVEFORM: waveform}
                if samples is not None:
                    inputs[SAMPLE_COUNT] = torch.tensor([samples])
                expected, _ = interpreter.run(own, inputs)
                frames = frame_count(samples or waveform.shape[1])
                ratios.append(_worst(expected, model.predict(_arrays(inputs)), frames))
        if name == STEP:
            state, kept = model.make_state(), None
            for waveform in chunks(config):
                inputs = {WAVEFORM: waveform}
                expected, kept = interpreter.run(own, inputs, kept)
                got = model.predict(_arrays(inputs), state=state)
                ratios.append(_worst(expected, got, frame_count(waveform.shape[1])))
    worst, least = min(ratios), min(MAC_SNR_DB, MINIMUM_SNR_DB[card["precision"]])
    faults = []
    if not worst >= least:
        faults = [f"Core ML agrees with the interpreter to {worst:.1f} dB, {least:.0f} are needed"]
    return {"ran": True, "worst_snr_db": worst, "calls": len(ratios), "faults": faults}


def _model(path: Path, function: str | None) -> Any:
    ct = coremltools()
    return ct.models.MLModel(
        str(path), compute_units=ct.ComputeUnit.CPU_ONLY, function_name=function
    )


def _arrays(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        name: (tensor if tensor.is_floating_point() else tensor.int()).numpy()
        for name, tensor in inputs.items()
    }


def _worst(expected: Mapping[str, Tensor], got: Mapping[str, Any], frames: int) -> float:
    return min(
        snr_db(tensor[:, :frames].numpy(), got[name][:, :frames])
        for name, tensor in expected.items()
    )
