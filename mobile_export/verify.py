"""No artefact without proof: a ``.pte`` examined beside the checkpoint it was made from.

The file itself is read, not what was exported: its structure from the bytes (``structure``), its
numbers from the real ExecuTorch runtime beside eager float32 and the quantised student in torch
(``agreement``), its time outside the delegate from the runtime's own events (``outside_time``), and
on a manifest its word error rate (``word_errors``).
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from mobile_export.agreement import Agreement, compare, probe_sound, snr_db
from mobile_export.listening import LogProbs, program_log_probs
from mobile_export.outside_time import outside_times
from mobile_export.programs import exported_parameters, folded
from mobile_export.progress import Progress, silent
from mobile_export.pte_graph import read_graph
from mobile_export.quantize import PRECISIONS, most_weight_bytes, quantize
from mobile_export.report import Report
from mobile_export.structure import file_faults
from rdsdk.decoding.settings import BeamSettings
from rdsdk.errors import ExportError
from rdsdk.models.checkpoint import Checkpoint, in_context
from rdsdk.models.config import EncoderConfig
from rdsdk.models.energies import constant_values
from rdsdk.runtime.artefact import read_artefact
from rdsdk.runtime.program import Program

__all__ = ["MAXIMUM_LOST_DB", "MINIMUM_SNR_DB", "examine", "probe_sound", "snr_db", "verify"]

MINIMUM_SNR_DB = {"fp32": 80.0, "int8": 14.0, "int4": 6.0}
"""Least ratio of signal (the checkpoint's output) to noise (the difference), in decibels."""

MAXIMUM_LOST_DB = 0.75
"""How much noisier than its quantised twin in torch an artefact may be over all calls, where the
twin's own noise is above rounding.

Rounding decides between neighbouring int8 steps, so two right computations differ: by at most
0.07 dB, measured, for the bundled model's artefact and its twin, and by 0.02 dB for two passes of a
fresh ARMHuBERT-S (twelve layers) whose samples differ by one part in three million.
"""

BYTES_A_PARAMETER = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}


def verify(
    checkpoint: Checkpoint,
    path: Path | str,
    manifest: Path | str | None = None,
    progress: Progress = silent,
) -> Report:
    """Examine an artefact and refuse it if anything is at fault.

    Raises:
        ModelError, DataError: as ``examine``.
        ExportError: as ``examine``, or something is at fault; says all of it.
    """
    report = examine(checkpoint, path, manifest, progress)
    report.require_passed(path)
    return report


def examine(
    checkpoint: Checkpoint,
    path: Path | str,
    manifest: Path | str | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare an artefact with a checkpoint; what is wrong is in ``faults`` of the report.

    Args:
        checkpoint: what it was made from.
        path: a ``.pte``.
        manifest: recordings with text, as for ``rdsdk evaluate``; with it word error rates are
            compared, which takes the time of hearing all of it twice.
        progress: called with a line as each stage begins.

    Raises:
        ModelError: the artefact is missing, damaged, or cannot be run.
        ExportError: its program cannot be understood, or its precision is unknown.
        DataError: the manifest cannot be used.
    """
    path = Path(path)
    program = Program(path)
    card = program.card
    checkpoint = for_its_latency(checkpoint, EncoderConfig.from_dict(card.architecture))
    student = checkpoint.student.eval()
    if card.precision not in MINIMUM_SNR_DB or card.precision not in PRECISIONS:
        raise ExportError(f"{path} has precision {card.precision!r}; known: {list(MINIMUM_SNR_DB)}")
    report = Report(
        target="pte",
        precision=card.precision,
        file={"name": path.name, "bytes": program.size_bytes},
        thresholds={
            "minimum_snr_db": MINIMUM_SNR_DB[card.precision],
            "maximum_lost_db": MAXIMUM_LOST_DB,
        },
        versions={name: version(name) for name in ("rdsdk", "torch", "executorch", "torchao")},
    )
    if differing := _card_faults(checkpoint, program):
        report.faults += differing
        return report
    progress("reading the structure of the file")
    graph = read_graph(read_artefact(path))
    structures, faults = file_faults(student.config, card.methods, card.parameters, graph)
    report.faults += faults
    most = most_weight_bytes(student, card.precision)
    if graph.weight_bytes > most:
        report.faults.append(
            f"the weights take {graph.weight_bytes} bytes, in {card.precision} at most {most}: "
            "some are not rounded"
        )
    report.methods = {name: found.to_dict() | {"time": None} for name, found in structures.items()}
    floor = round(BYTES_A_PARAMETER.get(card.precision, 4.0) * card.parameters)
    # Spectra and filters are float32 in every precision.
    floor += 4 * constant_values(student.config.mel_bands)
    report.file |= {
        "weight_bytes": graph.weight_bytes,
        "floor_bytes": floor,
        "file_to_floor": round(program.size_bytes / floor, 3),
    }
    if report.faults:
        return report
    progress("comparing it with the checkpoint, call by call")
    twin = folded(quantize(student, card.precision))
    agreement = compare(student, twin, program)
    report.agreement = agreement.to_dict()
    report.faults += agreement_faults(agreement, card.precision)
    if report.faults:
        return report
    progress("measuring where its time goes")
    for name, time in outside_times(path, card).items():
        report.methods[name]["time"] = time.to_dict()
    if manifest is not None:
        progress("comparing word error rates")
        heard = program_log_probs(program)
        compare_words(report, checkpoint, heard, manifest, program.search)
    return report


def agreement_faults(agreement: Agreement, precision: str) -> list[str]:
    """What is further off than its precision explains."""
    least = MINIMUM_SNR_DB[precision]
    faults = []
    if not agreement.worst_snr_db >= least:
        faults.append(
            f"{agreement.worst} agrees to {agreement.worst_snr_db:.1f} dB, {precision} needs "
            f"{least:.0f} dB"
        )
    for name, tensor in agreement.tensors.items():
        # Below the float32 threshold the twin's noise is quantisation; above, it is rounding.
        if tensor.twin_reference_db < MINIMUM_SNR_DB["fp32"] and tensor.lost_db > MAXIMUM_LOST_DB:
            faults.append(
                f"{name} is {tensor.lost_db:.2f} dB noisier than that of the quantised student in "
                f"torch ({tensor.reference_db:.1f} against {tensor.twin_reference_db:.1f} dB); "
                f"{MAXIMUM_LOST_DB} dB are explained by rounding"
            )
    return faults


def for_its_latency(checkpoint: Checkpoint, config: EncoderConfig) -> Checkpoint:
    """The checkpoint in the context that an artefact was exported for: its weights serve many."""
    context, own = config.context, checkpoint.student.config.context
    if context is None or own is None or context == own:
        return checkpoint
    return in_context(checkpoint, **asdict(context))


def _card_faults(checkpoint: Checkpoint, program: Program) -> list[str]:
    """Whether an artefact can be of this checkpoint at all."""
    card, student = program.card, checkpoint.student
    if EncoderConfig.from_dict(card.architecture) != student.config:
        return ["it was made from another architecture than this checkpoint"]
    if card.vocabulary != checkpoint.vocabulary:
        return ["its vocabulary is not that of this checkpoint"]
    if card.parameters != exported_parameters(student):
        return [
            f"its card speaks of {card.parameters} parameters, this checkpoint has "
            f"{exported_parameters(student)}"
        ]
    return []


def compare_words(
    report: Report,
    checkpoint: Checkpoint,
    heard: LogProbs,
    manifest: Path | str,
    search: BeamSettings | None = None,
) -> None:
    """Put the word error rates of a checkpoint and of its artefact into a report, both found by
    ``search``, or greedily.

    Raises:
        DataError: the manifest cannot be used.
        ExportError: the student writes no text, or the packages of training are missing.
        ConfigError, ModelError: the search's package or files are missing.
    """
    try:
        from mobile_export.word_errors import MAXIMUM_WER_LOSS, word_errors
    except ImportError as error:
        raise ExportError(
            f"comparing word error rates needs the packages of training ({error}); run: pip "
            "install 'rdsdk[train]'"
        ) from error
    found = word_errors(checkpoint, heard, manifest, search)
    report.words = found.to_dict()
    report.thresholds["maximum_wer_loss"] = MAXIMUM_WER_LOSS
    if found.lost > MAXIMUM_WER_LOSS:
        report.faults.append(
            f"its word error rate is {100 * found.artefact_wer:.2f} %, the checkpoint's "
            f"{100 * found.checkpoint_wer:.2f} % ({found.words} words); at most "
            f"{100 * MAXIMUM_WER_LOSS:.1f} more are accepted"
        )
