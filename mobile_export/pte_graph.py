"""The bytes of a ``.pte`` -> what each of its methods computes, as one flat graph a method.

A program is a flatbuffer: a list of kernel and delegate calls over numbered values. Behind each
call of the XNNPACK delegate lies a flatbuffer of its own with nodes over values numbered anew. Here
both become nodes over the same values, so that a value can be followed in and out of delegates.
Weights lie apart, each stored once under the hash of its bytes, and are named by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir import schema
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary

from mobile_export import flatbuffers
from mobile_export.flatbuffers import schema_path
from rdsdk.errors import ExportError

Value = tuple[int, int]
"""(0, index in the method) or (number of the delegate call from 1 on, id inside of it)."""

NO_VALUE = 0xFFFFFFFF
VIEW = "view"
MEAN = "mean"
"""A product with one row, which no layer has: the mean of a spelled norm."""
_XNNPACK = "XnnpackBackend"
_NAMES = {
    "XNNFullyConnected": "linear",
    "XNNConv2d": "convolution",
    "XNNDepthwiseConv2d": "convolution",
    "XNNConvTranspose2d": "convolution",
    "XNNBatchMatrixMultiply": "bmm",
    "XNNSoftmax": "_softmax",
}


@dataclass(frozen=True)
class Node:
    """One operator; ``delegate`` is the number of the delegate call that it is part of, or None."""

    operator: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    delegate: int | None


@dataclass(frozen=True)
class Graph:
    """One method: nodes in the order in which they run, and the tensors that go in and out."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    shapes: dict[Value, tuple[int, ...]]
    weights: frozenset[str]
    """Names of the stored weights that its nodes read."""

    @cached_property
    def writer(self) -> dict[Value, Node]:
        """The node that computes each value."""
        return {value: node for node in self.nodes for value in node.writes}

    @cached_property
    def delegates(self) -> int:
        """How many delegate calls there are."""
        return len({node.delegate for node in self.nodes} - {None})

    def operators(self, delegated: bool) -> Counter[str]:
        """How often each operator stands inside the delegates, or outside them."""
        return Counter(n.operator for n in self.nodes if (n.delegate is not None) == delegated)

    def origins(self, value: Value, stop: frozenset[str] = frozenset()) -> tuple[Node | Value, ...]:
        """Where a value comes from: the nearest nodes with an operator in ``stop``, and the inputs
        and weights that are reached without passing one."""
        found: dict[Node | Value, None] = {}
        seen, waiting = {value}, [value]
        while waiting:
            at = waiting.pop()
            node = self.writer.get(at)
            if node is None:
                found[at] = None
            elif node.operator in stop:
                found[node] = None
            else:
                waiting += [one for one in node.reads if one not in seen]
                seen.update(node.reads)
        return tuple(found)


@dataclass(frozen=True)
class PteGraph:
    """A whole file: its methods, and the bytes of each stored weight by name."""

    methods: dict[str, Graph]
    constants: frozenset[str]
    """Methods that compute nothing and give a constant."""
    weights: dict[str, int]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.weights.values())


def read_graph(program: bytes) -> PteGraph:
    """Read the program of a ``.pte``.

    Raises:
        ExportError: it holds something that this reader does not know: another delegate than
            XNNPACK, control flow, or a payload of another version.
    """
    try:
        file = deserialize_pte_binary(program)
        payloads = _payloads(file)
        computed = [plan for plan in file.program.execution_plan if plan.chains[0].instructions]
        methods = {plan.name: _graph(plan, payloads) for plan in computed}
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, OSError) as error:
        raise ExportError(
            f"the program of this .pte cannot be read: {type(error).__name__}: {error}"
        ) from error
    constants = {plan.name for plan in file.program.execution_plan} - set(methods)
    return PteGraph(methods, frozenset(constants), _weights(file))


def _weights(file: PTEFile) -> dict[str, int]:
    sizes = {f"constant {i}": len(b.storage) for i, b in enumerate(file.program.constant_buffer)}
    if file.named_data is not None:
        for name, entry in file.named_data.pte_data.items():
            sizes[name] = len(file.named_data.buffers[entry.buffer_index])
    return {name: size for name, size in sizes.items() if size}


def _payloads(file: PTEFile) -> list[dict[str, Any]]:
    """What each XNNPACK delegate holds, as its schema names it."""
    graphs = []
    for blob in file.program.backend_delegate_data:
        header = XNNHeader.from_bytes(blob.data[: XNNHeader.EXPECTED_LENGTH])
        start = header.flatbuffer_offset
        graphs.append(bytes(blob.data[start : start + header.flatbuffer_size]))
    schema_file = schema_path("executorch.backends.xnnpack", "serialization", "schema.fbs")
    return flatbuffers.decode(schema_file, graphs)


def _graph(plan: schema.ExecutionPlan, payloads: list[dict[str, Any]]) -> Graph:
    tensors = {
        i: value.val for i, value in enumerate(plan.values) if isinstance(value.val, schema.Tensor)
    }
    shapes: dict[Value, tuple[int, ...]] = {(0, i): tuple(t.sizes) for i, t in tensors.items()}
    constants = {i for i, t in tensors.items() if t.allocation_info is None and t.data_buffer_idx}
    weights: set[str] = set()
    written = set(constants)
    holders: dict[tuple[int, int, int] | None, int] = {}
    nodes: list[Node] = []
    calls = 0

    def read(given: Sequence[int]) -> None:
        """Views of fixed shape are no instruction: another tensor in the same place."""
        for index in given:
            held = holders.get(_place(tensors[index]))
            if index not in written and held is not None:
                nodes.append(Node(VIEW, ((0, held),), ((0, index),), None))
                written.add(index)

    def write(made: Sequence[int]) -> None:
        written.update(made)
        holders.update({at: i for i in made if (at := _place(tensors[i]))})

    write([i for i in plan.inputs if i in tensors])
    for instruction in plan.chains[0].instructions:
        call = instruction.instr_args
        if isinstance(call, schema.KernelCall):
            name = plan.operators[call.op_index].name.split("::")[-1]
            # What a kernel computes is given it, and is its result: the last of its values.
            made = list(_tensors(plan, call.args[-1:]))
            given = [i for i in dict.fromkeys(_tensors(plan, call.args)) if i not in made]
            read(given)
            values = [tuple((0, i) for i in each) for each in (given, made)]
            nodes.append(Node(name, values[0], values[1], None))
            write(made)
            weights.update(f"constant {tensors[i].data_buffer_idx}" for i in constants & set(given))
        elif isinstance(call, schema.DelegateCall):
            calls += 1
            delegate = plan.delegates[call.delegate_index]
            if delegate.id != _XNNPACK:
                raise ExportError(
                    f"the method {plan.name} calls {delegate.id}, expected {_XNNPACK}"
                )
            payload = payloads[delegate.processed.index]
            around = list(_tensors(plan, call.args))
            inputs = len(payload["input_ids"])
            given, made = around[:inputs], around[inputs:]
            read(given)
            nodes += _delegated(payload, calls, [(0, i) for i in around], shapes)
            write(made)
            used = constants & set(given)
            weights.update(f"constant {tensors[i].data_buffer_idx}" for i in used)
            weights.update(c["named_key"] for c in payload["constant_data"] if c["named_key"])
        elif not isinstance(call, schema.FreeCall):
            raise ExportError(f"the method {plan.name} holds {type(call).__name__}: control flow")
    read([i for i in plan.outputs if i in tensors])
    return Graph(
        plan.name,
        tuple(nodes),
        tuple((0, i) for i in plan.inputs),
        tuple((0, i) for i in plan.outputs),
        shapes,
        frozenset(weights),
    )


def _place(tensor: schema.Tensor) -> tuple[int, int, int] | None:
    """Where a tensor lies in the memory that the program plans; None if it does not."""
    at = tensor.allocation_info
    return at and (at.memory_id, at.memory_offset_high, at.memory_offset_low)


def _tensors(plan: schema.ExecutionPlan, indices: Sequence[int]) -> Iterator[int]:
    """Those of some values that are tensors, and the members of those that are lists of them."""
    for index in indices:
        value = plan.values[index].val
        if isinstance(value, schema.Tensor):
            yield index
        elif isinstance(value, (schema.TensorList, schema.OptionalTensorList)):
            yield from (item for item in value.items if item >= 0)


def _delegated(
    payload: dict[str, Any], call: int, outside: list[Value], shapes: dict[Value, tuple[int, ...]]
) -> Iterator[Node]:
    """The nodes of one delegate call, its externals renamed to the values around it."""
    values = [value["xvalue_union"] for value in payload["xvalues"]]
    # A quantised value wraps a plain one.
    plain = {v["id_out"]: v for v in (value.get("tensor_value", value) for value in values)}

    def by_external(ids: list[int]) -> list[int]:
        return sorted(ids, key=lambda i: plain[i]["external_id"])

    external = [*by_external(payload["input_ids"]), *by_external(payload["output_ids"])]
    around = dict(zip(external, outside, strict=True))

    def renamed(inside: int) -> Value:
        return around.get(inside, (call, inside))

    for identity, value in plain.items():
        shapes.setdefault(renamed(identity), tuple(value["dims"]))
    for node in payload["xnodes"]:
        kind, fields = node["xnode_union_type"], node["xnode_union"]
        reads: list[Value] = []
        writes: list[Value] = []
        for name, identity in fields.items():
            if not name.endswith("_id") or identity == NO_VALUE or _is_unused(kind, name):
                continue
            (writes if name.startswith("output") else reads).append(renamed(identity))
        operator = _operator(kind)
        if operator == "linear" and shapes[writes[0]][-1] == 1:
            operator = MEAN
        yield Node(operator, tuple(reads), tuple(writes), call)


def _operator(kind: str) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    words = re.findall(r"[A-Z][a-z0-9]*", kind.removeprefix("XNN"))
    return "_".join(words).lower()


def _is_unused(kind: str, field: str) -> bool:
    """Whether a field only stands there because a concatenation has room for five inputs."""
    if not kind.startswith("XNNConcatenate"):
        return False
    number = field.removeprefix("input").removesuffix("_id")
    return number.isdigit() and int(number) > int(kind[-1])
