"""A function of torch -> a Core ML model in memory, in a named precision."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from mobile_export.coreml_programs import SAMPLE_COUNT, WAVEFORM, Function
from rdsdk.errors import ExportError

PRECISIONS = ("fp32", "fp16", "int8", "palette6", "palette4")
"""What weights are kept in; all but fp32 compute in float16.

int8: linear and symmetric, one scale an output channel. palette6 and palette4: a table of 64 or 16
values for each tensor, found by k-means.
"""
EXPERIMENTAL = ("palette6", "palette4")
"""Palettes lose accuracy, and stateful ones were seen to crash on the Neural Engine
(github.com/apple/coremltools issue 2716)."""
COMPRESSED_VALUES = 512
"""Weights of fewer values stay as they are."""
MAKING_POWERS = frozenset(
    {"slice_by_index", "concat", "conv", "mul", "transpose", "reshape", "add", "expand_dims"}
)
"""The operations that make the powers in mel bands out of the waveform."""


def coremltools() -> ModuleType:
    """The converter, imported without its remarks about libraries that only macOS has.

    Raises:
        ExportError: it is not installed.
    """
    with quiet():
        try:
            import coremltools as ct
            import coremltools.optimize
        except ImportError as error:
            raise ExportError(
                f"Core ML packages need coremltools, which is not installed ({error}); it exists "
                "for macOS and x86-64 Linux with Python below 3.14: pip install 'rdsdk[export]'"
            ) from error
    module: ModuleType = ct
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and remarks about versions off the screen; errors are raised as ever."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def require_precision(precision: str) -> None:
    """Do nothing for a known precision.

    Raises:
        ExportError: it is not known; names those that are.
    """
    if precision not in PRECISIONS:
        raise ExportError(
            f"unknown precision {precision!r} for Core ML; known: {', '.join(PRECISIONS)}"
        )


def convert(function: Function, program: ExportedProgram, precision: str, ios: int) -> Any:
    """A coremltools ``MLModel`` of one function, for iOS 17 or 18.

    Args:
        function: what to convert.
        program: its ``trace``, which serves every precision.

    Raises:
        ExportError: an unknown precision, coremltools is missing, or it cannot convert.
    """
    require_precision(precision)
    ct = coremltools()
    try:
        with quiet():
            return ct.convert(
                program,
                inputs=_inputs(ct, function),
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in function.outputs],
                minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
                compute_precision=ct.precision.FLOAT32
                if precision == "fp32"
                else ct.transform.FP16ComputePrecision(lambda each: not _makes_energies(each)),
                pass_pipeline=_passes(ct, precision),
                skip_model_load=True,
            )
    except Exception as error:
        raise ExportError(
            f"converting {function.name} to Core ML failed: {type(error).__name__}: {error}"
        ) from error


def trace(function: Function) -> ExportedProgram:
    """A function's graph, in operators that coremltools knows and without empty tensors.

    Raises:
        ExportError: torch cannot export it.
    """
    shapes = None
    if function.min_samples != function.max_samples:
        # AUTO: of a named one the exporter cannot prove that it never gives a single frame.
        samples = Dim.AUTO(min=function.min_samples, max=function.max_samples)
        shapes = ({1: samples}, *({} for _ in function.inputs[1:]))
    try:
        with torch.no_grad(), quiet():
            return respell(
                torch.export.export(
                    function.module, function.example, dynamic_shapes=shapes, strict=False
                )
            )
    except Exception as error:
        raise ExportError(
            f"tracing {function.name} for Core ML failed: {type(error).__name__}: {error}"
        ) from error


def respell(program: ExportedProgram) -> ExportedProgram:
    """The same program in operators that coremltools knows, without empty tensors."""
    program = program.run_decompositions(_SPELLINGS)
    _rename(program)
    _drop_empty_parts(program)
    _read_lengths(program)
    return program


def _inputs(ct: ModuleType, function: Function) -> list[Any]:
    waveform: Any = (1, function.min_samples)
    if function.lengths:
        waveform = ct.EnumeratedShapes(
            shapes=[(1, length) for length in function.lengths],
            default=(1, function.lengths[-1]),
        )
    elif function.min_samples != function.max_samples:
        default = function.example[0].shape[1]
        waveform = (1, ct.RangeDim(function.min_samples, function.max_samples, default=default))
    made = [ct.TensorType(name=WAVEFORM, shape=waveform, dtype=np.float32)]
    if SAMPLE_COUNT in function.inputs:
        made.append(ct.TensorType(name=SAMPLE_COUNT, shape=(1,), dtype=np.int32))
    return made


def _passes(ct: ModuleType, precision: str) -> Any:
    passes = ct.PassPipeline()
    # These two move the writing of states forward. Both fail here: on operators that came out of
    # two other passes, and on states whose last operators stand side by side. Compressing a
    # finished model would run them, so that is a pass too.
    passes.remove_passes(
        {"common::canonicalize_inplace_pattern", "common::prefer_state_in_downstream"}
    )
    optimize = ct.optimize.coreml
    if precision == "int8":
        how = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", weight_threshold=COMPRESSED_VALUES
        )
        compression = "compression::linear_quantize_weights"
    elif precision in EXPERIMENTAL:
        how = optimize.OpPalettizerConfig(
            mode="kmeans",
            nbits=int(precision.removeprefix("palette")),
            weight_threshold=COMPRESSED_VALUES,
        )
        compression = "compression::palettize_weights"
    else:
        return passes
    # Spectra and filters are no weights: what they leave out of soft bands, nothing brings back.
    exact = dict.fromkeys(f"b_student_energies_{name}" for name in ("long", "short", "bank"))
    config = optimize.OptimizationConfig(how, op_name_configs=exact)
    passes.append_pass(compression)
    passes.set_options(compression, {"config": config})
    return passes


def _makes_energies(operation: Any) -> bool:
    """Whether an operation takes part in making log-mel energies: powers span more than float16
    does. Nothing but they comes to a logarithm by these operations alone."""
    if operation.op_type == "log":
        source = operation.inputs["x"].op
        return source is not None and source.op_type in MAKING_POWERS
    return operation.op_type in MAKING_POWERS and any(
        following.op_type == "log" or _makes_energies(following)
        for made in operation.outputs
        for following in made.child_ops
    )


def _log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    # coremltools spells it log(softmax), which in float16 is minus infinity for all rare symbols.
    shifted = (x if dtype is None else x.to(dtype)) - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _new_ones(x: Tensor, size: list[int], **how: Any) -> Tensor:
    return torch.ones(size, dtype=how.get("dtype") or x.dtype)


_aten = torch.ops.aten
_SPELLINGS: dict[OpOverload, Callable[..., Any]] = {
    _aten.log_softmax.int: _log_softmax,
    _aten.new_ones.default: _new_ones,
}


def _rename(program: ExportedProgram) -> None:
    for node in program.graph_module.graph.nodes:
        if node.target is _aten.__and__.Tensor:
            node.target = _aten.logical_and.default  # of two masks: the same
        elif node.target is _aten.alias.default:
            node.replace_all_uses_with(node.args[0])


def _drop_empty_parts(program: ExportedProgram) -> None:
    """Leave what has no frames out of concatenations: Core ML has no empty tensors.

    A full-context student remembers nothing, so its past is zero frames long.
    """
    graph = program.graph_module.graph
    for node in graph.nodes:
        if node.target is _aten.cat.default:
            parts = [part for part in node.args[0] if 0 not in part.meta["val"].shape]
            if len(parts) == 1:
                node.replace_all_uses_with(parts[0])
            elif len(parts) < len(node.args[0]):
                node.args = (parts, *node.args[1:])
    graph.eliminate_dead_code()
    program.graph_module.recompile()


_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def _read_lengths(program: ExportedProgram) -> None:
    """Take each length from a tensor that has it, where the exporter would compute it anew.

    It derives all of them from the waveform's by floor divisions, which coremltools makes floats.
    A length that no tensor has before it is given one by a view is what is left over (-1).
    """
    graph = program.graph_module.graph
    having: dict[str, tuple[Node, int]] = {}
    reads: dict[str, Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        for length in node.all_input_nodes:
            size = length.meta.get("val")
            if not isinstance(size, torch.SymInt) or str(size) not in having:
                continue
            if length.target is not _aten.sym_size.int and isinstance(node.target, OpOverload):
                if str(size) not in reads:
                    with graph.inserting_after(having[str(size)][0]):
                        read = graph.call_function(_aten.sym_size.int, having[str(size)])
                    read.meta["val"] = size
                    reads[str(size)] = read
                node.replace_input_with(length, reads[str(size)])
        if node.target in _VIEWS:
            known = reads.values()
            sizes = [-1 if isinstance(n, Node) and n not in known else n for n in node.args[1]]
            if sizes.count(-1) == 1:
                node.args = (node.args[0], sizes)
        for dimension, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt):
                having.setdefault(str(size), (node, dimension))
    graph.eliminate_dead_code()
    program.graph_module.recompile()
