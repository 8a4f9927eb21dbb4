"""What the program of a saved Core ML package computes: maps, their owners, states and weights.

Everything is read off the file, by following values from operation to operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mobile_export.coreml_conversion import MAKING_POWERS
from mobile_export.coreml_graph import CAST, MASKING, MOVES, Graph
from mobile_export.coreml_interpreter import Interpreter
from mobile_export.coreml_programs import WAVEFORM, packed_shape, stream_shapes
from mobile_export.coreml_weights import kinds
from rdsdk.models.config import EncoderConfig
from rdsdk.models.student import Student

FILES = {
    "Manifest.json",
    "Data/com.apple.CoreML/model.mlmodel",
    "Data/com.apple.CoreML/weights/weight.bin",
}
FREE_OF_WAVEFORM = frozenset({"valid"})
"""State that says how much was heard, not what."""


@dataclass(frozen=True)
class PackageStructure:
    """One function of a package, as found in its file.

    ``map_owner`` names for each layer the first layer that applies a map of the same softmax, and
    ``softmax_again`` the layers whose map went through a second softmax. ``query_key_layers`` are
    the linear layers whose product a softmax takes. ``product_weights`` counts the
    values of all weights of linear layers and convolutions.
    """

    operations: Counter[str]
    softmaxes: int
    map_owner: tuple[int, ...]
    softmax_again: tuple[int, ...]
    query_key_layers: tuple[str, ...]
    product_weights: int
    gelus: Counter[str]
    energies: Counter[str]
    """Of log-mel energies: in which types they are made of the waveform, and how often."""
    states: Mapping[str, tuple[int, ...]]
    reads: Counter[str]
    writes: Counter[str]
    depends: Mapping[str, frozenset[str]]
    """For each output and each written state, the inputs and states it is computed from."""
    empty: tuple[str, ...]
    """Values that are declared to hold nothing, which Core ML does not take."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the report."""
        return {
            "operations": dict(self.operations.most_common()),
            "softmaxes": self.softmaxes,
            "map_owner": list(self.map_owner),
            "softmax_again": list(self.softmax_again),
            "product_weights": self.product_weights,
            "states": {name: list(shape) for name, shape in self.states.items()},
        }


def structure(interpreter: Interpreter, function: str) -> PackageStructure:
    """Look through one function of a package."""
    graph = Graph(interpreter, function)
    softmaxes = [op.outputs[0].name for op in graph.operations if op.type == "softmax"]
    roots: list[str] = []
    owners: list[int] = []
    again: list[int] = []
    for operation in graph.operations:
        if operation.type != "matmul":
            continue
        applied = graph.back(graph.sources(operation, "x")[0])
        if applied not in softmaxes:
            continue
        # A second softmax takes the map with the mask added; the first takes a product.
        before = graph.behind(graph.sources(graph.maker[applied], "x")[0], "softmax", MASKING)
        if before:
            again.append(len(owners))
            applied = before[0]
        owners.append(roots.index(applied) if applied in roots else len(owners))
        roots.append(applied)
    writes = [op for op in graph.operations if op.type == "write_state"]
    depends = {name: graph.depends[name] for name in graph.spec.outputs}
    depends |= {
        f"state {graph.sources(op, 'input')[0]}": graph.depends[graph.sources(op, "data")[0]]
        for op in writes
    }
    return PackageStructure(
        operations=Counter(op.type for op in graph.operations if op.type != "const"),
        softmaxes=len(softmaxes),
        map_owner=tuple(owners),
        softmax_again=tuple(again),
        query_key_layers=_query_key_layers(graph, list(dict.fromkeys(roots))),
        product_weights=sum(
            graph.constant(op, "weight").numel()
            for op in graph.operations
            if op.type in ("linear", "conv")
        ),
        gelus=Counter(
            str(graph.constant(op, "mode", "EXACT")) for op in graph.operations if op.type == "gelu"
        ),
        energies=_energies(graph),
        states=graph.spec.states,
        reads=Counter(
            graph.sources(op, "input")[0] for op in graph.operations if op.type == "read_state"
        ),
        writes=Counter(graph.sources(op, "input")[0] for op in writes),
        depends=depends,
        empty=tuple(
            output.name
            for op in graph.operations
            for output in op.outputs
            if any(
                d.HasField("constant") and not d.constant.size
                for d in output.type.tensorType.dimensions
            )
        ),
    )


def _query_key_layers(graph: Graph, softmaxes: list[str]) -> tuple[str, ...]:
    """The linear layers behind the two factors of each softmax's product, by their results."""
    found: list[str] = []
    through = MOVES | {"mul", "concat", "slice_by_index"}
    for softmax in softmaxes:
        masked = graph.sources(graph.maker[softmax], "x")[0]
        for logits in graph.behind(masked, "matmul", MASKING):
            for factor in graph.sources(graph.maker[logits], "x", "y"):
                found += graph.behind(factor, "linear", through)
    return tuple(found)


def _energies(graph: Graph) -> Counter[str]:
    """The types in which powers are made of the waveform, up to a logarithm."""
    found: Counter[str] = Counter()
    for log in graph.operations:
        if log.type == "log":
            makers = [maker for maker in _makers(graph, log) if maker.type not in CAST]
            if all(maker.type in MAKING_POWERS for maker in makers):
                numbers = (maker.outputs[0].type.tensorType.dataType for maker in makers)
                found.update(kinds()[number].name for number in numbers)
    return found


def _makers(graph: Graph, operation: Any) -> list[Any]:
    """All operations that an operation's values come from, from the inputs on."""
    found: dict[str, Any] = {}
    wanted = graph.sources(operation)
    while wanted:
        value = wanted.pop()
        if value in graph.maker and value not in found:
            found[value] = graph.maker[value]
            wanted += graph.sources(found[value])
    return list(found.values())


def structure_faults(
    student: Student,
    function: str,
    found: PackageStructure,
    states: Mapping[str, Any],
    free: Collection[str] = (),
) -> list[str]:
    """What a function computes otherwise than its student; a sentence each, none if all is well.

    Args:
        student: the checkpoint's, weight norm folded.
        function: its name, for the sentences.
        states: the states that it should declare, by name, with their packed shapes.
        free: outputs that say how much was heard, not what.
    """
    config, faults = student.config, []
    groups = len({owner for layer, owner in enumerate(config.map_owner) if layer != owner})
    again = config.reused_map == "softmax_again"
    softmaxes = len(config.owners) + (groups if again else 0)
    reusing = tuple(layer for layer, owner in enumerate(config.map_owner) if layer != owner)
    expected = {
        "softmaxes": (found.softmaxes, softmaxes),
        "layers that apply the map of": (found.map_owner, config.map_owner),
        "layers with a second softmax": (found.softmax_again, reusing if again else ()),
        "linear layers of queries and keys, and of them different,": (
            (len(found.query_key_layers), len(set(found.query_key_layers))),
            (2 * len(config.owners),) * 2,
        ),
        "values in weights of products": (found.product_weights, _product_weights(student)),
        "spellings of GELU": (set(found.gelus), {"EXACT"}),
        "types of powers": (set(found.energies), {"FLOAT32"} if config.mel_bands else set()),
        "states": (dict(found.states), dict(states)),
        "states read": (dict(found.reads), dict.fromkeys(states, 1)),
        "states written": (dict(found.writes), dict.fromkeys(states, 1)),
        "empty tensors": (found.empty, ()),
    }
    for what, (got, wanted) in expected.items():
        if got != wanted:
            faults.append(f"{function} has {what} {got}, its student {wanted}")
    for result, sources in found.depends.items():
        state = result.startswith("state ")
        silent = result in free or (state and result.removeprefix("state ") in FREE_OF_WAVEFORM)
        needed = {*(() if silent else (WAVEFORM,)), *(() if state else states)}
        if missing := sorted(needed - sources):
            faults.append(f"{result} of {function} does not depend on {missing}")
    return faults


def declared_states(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """The states of ``step`` by name, as a package should declare them."""
    return {name: packed_shape(shape) for name, shape in stream_shapes(config).items()}


def file_faults(path: Path) -> list[str]:
    """Files that are missing in a package or that do not belong there."""
    found = {item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()}
    faults = []
    if missing := sorted(FILES - found):
        faults.append(f"the package misses {missing}")
    if stray := sorted(found - FILES):
        faults.append(f"the package holds stray files {stray}")
    return faults


def _product_weights(student: Student) -> int:
    """Values in the weights of linear layers and convolutions that an inference needs."""
    named: dict[str, Tensor] = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    return sum(
        tensor.numel()
        for name, tensor in named.items()
        if tensor.ndim >= 2 and not name.startswith("projections.") and not name.endswith(".basis")
    )
