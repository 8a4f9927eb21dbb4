"""A checkpoint -> a ``.pte`` whose one call goes to Core ML: ExecuTorch's Core ML delegate.

The method is ``forward``: a full-context student's takes any length; a streaming student's takes
one chunk and the state, in and out as tensors. The delegate holds a Core ML package; to prove it,
the package is unpacked from the written file and run by the interpreter.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobile_export.coreml import (
    ExportedPackage,
    convertible,
    export_report,
    reference,
    require_passed,
    summary,
)
from mobile_export.coreml_card import MAIN
from mobile_export.coreml_conversion import (
    COMPRESSED_VALUES,
    coremltools,
    quiet,
    respell,
)
from mobile_export.coreml_graph import Graph, other_program_faults
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_structure import FREE_OF_WAVEFORM, structure, structure_faults
from mobile_export.coreml_verify import (
    NEARNESS,
    PackageAgreement,
    Proof,
    chunks,
    eager,
    require_architecture,
    usual_recordings,
)
from mobile_export.executorch import RESERVED_CARD_BYTES, completed
from mobile_export.programs import Method, card, card_faults, methods
from mobile_export.report import require_place
from mobile_export.verify import for_its_latency
from rdsdk.errors import ExportError, ModelError
from rdsdk.models.checkpoint import Checkpoint
from rdsdk.models.config import EncoderConfig
from rdsdk.models.state import EncoderState
from rdsdk.models.student import Student
from rdsdk.runtime.artefact import read_artefact, seal

FORWARD = "forward"
PRECISIONS = ("fp32", "fp16", "int8")
IOS = 17
_PACKAGE = Path("lowered_module") / "model.mlpackage"
_METADATA = Path("lowered_module") / "metadata.json"


def export_coreml_pte(
    checkpoint: Checkpoint,
    path: Path | str,
    precision: str = "int8",
    name: str | None = None,
    measured: dict[str, Any] | None = None,
) -> ExportedPackage:
    """Write ``path`` if, and only if, all of it is delegated and agrees with the checkpoint.

    Raises:
        ExportError: an unknown precision, a lowering that fails or leaves something outside the
            delegate, or outputs that differ; nothing is left at ``path`` then, and what was there
            before is untouched.
    """
    path = Path(path)
    require_place(path, ".pte")
    if precision not in PRECISIONS:
        raise ExportError(
            f"unknown precision {precision!r} for the delegate; known: {', '.join(PRECISIONS)}"
        )
    if checkpoint.student.config.mel_bands and precision != "fp32":
        # The delegate's settings have one precision for all that it computes.
        raise ExportError(
            f"a student with mel_bands cannot go to Core ML's delegate in {precision}: soft powers "
            "are zero in float16; take --precision fp32, a .mlpackage, which keeps those in "
            "float32, or a .pte for XNNPACK"
        )
    student = reference(checkpoint)
    method = delegated_method(convertible(checkpoint))
    description = card(checkpoint, {FORWARD: method}, name or path.stem, precision, measured)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        candidate = Path(folder) / path.name
        blank_card = json.dumps(description) + " " * RESERVED_CARD_BYTES
        program = lower_to_core_ml(method, blank_card, precision)
        candidate.write_bytes(seal(program))
        report = _report(student, method, candidate, precision, Path(folder))
        require_passed(report, path)
        description["verification"] = summary(report)
        candidate.write_bytes(seal(completed(program, blank_card, description)))
        candidate.replace(path)
    return ExportedPackage(path, path.stat().st_size, description, report)


def verify_coreml_pte(checkpoint: Checkpoint, path: Path | str) -> dict[str, Any]:
    """Prove a ``.pte`` of ``export_coreml_pte`` again, from the file and the checkpoint alone.

    Raises:
        ModelError: it is no ``.pte``, or damaged.
        ExportError: it was made from another architecture, or does not do what the checkpoint does.
    """
    report = examine_coreml_pte(checkpoint, path)
    require_passed(report, Path(path))
    return report


def examine_coreml_pte(checkpoint: Checkpoint, path: Path | str) -> dict[str, Any]:
    """The same, with what is wrong among the report's ``faults``."""
    path = Path(path)
    description = read_delegate_card(path)
    config = EncoderConfig.from_dict(description["architecture"])
    checkpoint = for_its_latency(checkpoint, config)
    student = reference(checkpoint)
    require_architecture(description, student, path)
    with tempfile.TemporaryDirectory(prefix="rdsdk-") as folder:
        method, precision = delegated_method(convertible(checkpoint)), description["precision"]
        faults = card_faults(description, card(checkpoint, {FORWARD: method}, "", precision))
        return _report(student, method, path, precision, Path(folder), faults)


def read_delegate_card(path: Path) -> dict[str, Any]:
    """The card of a ``.pte``, read from its bytes: no runtime here has the delegate.

    Raises:
        ModelError: it is no ``.pte``, damaged, or without a card.
    """
    for plan in _program(path).execution_plan:
        if plan.name == "card":
            return dict(json.loads(plan.values[plan.outputs[0]].val.string_val))
    raise ModelError(f"{path} has no card of rdsdk; export the model again")


def _program(path: Path) -> Any:
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(read_artefact(path)).program


def delegated_method(student: Student) -> Method:
    """The one method: for streaming students that of exactly one chunk."""
    made = methods(student)
    return made.get("step", made["forward"])


def lower_to_core_ml(method: Method, card_json: str, precision: str) -> bytes:
    """Lower a method for Core ML, with a card as a constant method.

    Raises:
        ExportError: coremltools is missing, or the lowering fails; says where it stopped.
    """
    ct = coremltools()
    try:
        with quiet():
            from executorch.backends.apple.coreml.compiler import CoreMLBackend
            from executorch.backends.apple.coreml.partition import CoreMLPartitioner
            from executorch.exir import to_edge_transform_and_lower

            compute = ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16
            specs = [
                CoreMLBackend.generate_compute_precision_compile_spec(compute),
                CoreMLBackend.generate_minimum_deployment_target_compile_spec(
                    getattr(ct.target, f"iOS{IOS}")
                ),
            ]
            if precision == "int8":
                how = {
                    "mode": "linear_symmetric",
                    "dtype": "int8",
                    "granularity": "per_channel",
                    "weight_threshold": COMPRESSED_VALUES,
                }
                specs.append(CoreMLBackend.generate_op_linear_quantizer_config_compile_spec(how))
            with torch.no_grad():
                program = respell(
                    torch.export.export(
                        method.module,
                        method.example,
                        dynamic_shapes=method.dynamic_shapes,
                        strict=False,
                    )
                )
            # The state is an argument; there is no buffer for Core ML to take over.
            partitioner = CoreMLPartitioner(compile_specs=specs, take_over_mutable_buffer=False)
            edge = to_edge_transform_and_lower(
                {FORWARD: program},
                partitioner=[partitioner],
                constant_methods={"card": card_json},
            )
            return bytes(edge.to_executorch().buffer)
    except Exception as error:
        raise ExportError(
            f"lowering for Core ML failed: {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True)
class Delegated:
    """The package in the delegate of a ``.pte``, with its tensors as the method orders them."""

    interpreter: Interpreter
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Call the method: its inputs in order -> its outputs in order."""
        named = dict(zip(self.inputs, inputs, strict=True))
        got, _ = self.interpreter.run(MAIN, named)
        return [got[name] for name in self.outputs]


def unpack_delegate(path: Path, folder: Path) -> Delegated:
    """Take the package out of a written ``.pte``; ``folder`` must be new.

    Raises:
        ModelError: the file is no ``.pte``, or damaged.
        ExportError: something is outside the delegate, or the delegate is not Core ML's.
    """
    from executorch.backends.apple.coreml import executorchcoreml

    program = _program(path)
    plans = [plan for plan in program.execution_plan if plan.name == FORWARD]
    if len(plans) != 1:
        raise ExportError(f"{path} has no method {FORWARD}")
    plan = plans[0]
    calls = [i.instr_args for chain in plan.chains for i in chain.instructions]
    kinds = [type(call).__name__ for call in calls]
    if kinds != ["DelegateCall"] or [d.id for d in plan.delegates] != ["CoreMLBackend"]:
        outside = [f"{operator.name}.{operator.overload}" for operator in plan.operators]
        raise ExportError(
            f"{FORWARD} of {path} makes the calls {kinds} with {outside} outside of the delegates "
            f"{[d.id for d in plan.delegates]}; all of it must be one call of Core ML's"
        )
    payload = program.backend_delegate_data[plan.delegates[0].processed.index].data
    folder.mkdir()
    if not executorchcoreml.unflatten_directory_contents(bytes(payload), str(folder)):
        raise ExportError(f"the delegate of {path} holds no package that can be unpacked")
    metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    names = [*metadata["inputNames"], *metadata["outputNames"]]
    named = dict(zip(calls[0].args, names, strict=True))
    return Delegated(
        Interpreter(folder / _PACKAGE),
        tuple(named[value] for value in plan.inputs),
        tuple(named[value] for value in plan.outputs),
    )


def prove_delegate(
    student: Student, method: Method, delegated: Delegated, precision: str, exact: Delegated | None
) -> Proof:
    """Look through the package of a delegate and run it beside its student.

    Args:
        student: the checkpoint's, in eval mode, weight norm folded.
        method: what was lowered: the names of inputs and outputs, in order.
        delegated: the package.
        precision: of its weights.
        exact: a float32 one of the same student, proven itself, that it must follow.
    """
    found = structure(delegated.interpreter, MAIN)
    named = dict(zip(method.outputs, delegated.outputs, strict=True))
    free = [named[state] for state in FREE_OF_WAVEFORM if state in named]
    faults = structure_faults(student, FORWARD, found, {}, free)
    if exact is not None:
        pair = (Graph(exact.interpreter, MAIN), Graph(delegated.interpreter, MAIN))
        faults += other_program_faults(*pair, NEARNESS[precision])
    agreement = PackageAgreement()
    if not faults:
        _compare(student, method, delegated, agreement)
        faults += agreement.faults(precision)
    return Proof({FORWARD: found.to_dict()}, agreement, faults)


def _compare(
    student: Student, method: Method, delegated: Delegated, agreement: PackageAgreement
) -> None:
    if student.config.context is None:
        for label, waveform in usual_recordings(method.min_samples):
            got = dict(zip(method.outputs, delegated.run([waveform]), strict=True))
            agreement.add(label, eager(student, waveform)[0], got)
        return
    state, own = student.encoder.fresh_state(), None
    for number, waveform in enumerate(chunks(student.config)):
        expected, following = eager(student, waveform, state, followed=True)
        alone, own = eager(student, waveform, own, followed=True)
        got = dict(zip(method.outputs, delegated.run([waveform, *state]), strict=True))
        agreement.add(f"chunk {number + 1}", expected, got)
        state = EncoderState(*(got[name] for name in EncoderState._fields))
        agreement.add_stream(following._asdict(), state._asdict(), alone, got)


def _report(
    student: Student,
    method: Method,
    path: Path,
    precision: str,
    folder: Path,
    faults: Sequence[str] = (),
) -> dict[str, Any]:
    exact: Delegated | None = None
    faults = list(faults)
    exact_agreement: Mapping[str, Any] = {}
    delegated = unpack_delegate(path, folder / "delegate")
    if precision != "fp32":
        plain = folder / "exact.pte"
        plain.write_bytes(seal(lower_to_core_ml(method, "{}", "fp32")))
        exact = unpack_delegate(plain, folder / "exact")
        proof = prove_delegate(student, method, exact, "fp32", None)
        exact_agreement = {FORWARD: proof.agreement.to_dict()}
        faults += [f"in float32, {fault}" for fault in proof.faults]
    proof = prove_delegate(student, method, delegated, precision, exact)
    proof.functions[FORWARD]["delegate_calls"] = 1
    return export_report(
        "coreml-pte",
        precision,
        student,
        {"name": path.name, "bytes": path.stat().st_size},
        Proof(proof.functions, proof.agreement, faults + proof.faults),
        exact_agreement,
        {"ran": False, "why": "a delegate runs in an app, or in ExecuTorch on macOS"},
    )
