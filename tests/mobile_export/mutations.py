"""Faults put into the bytes of a finished ``.pte``, as a compiler or a careless edit could.

Each takes a file apart, changes one thing in every method and puts it together again; the card, the
other weights and the memory plan stay as they were.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from executorch.exir import schema
from executorch.exir._serialize._program import (
    PTEFile,
    deserialize_pte_binary,
    serialize_pte_binary,
)

from mobile_export import pte_graph
from mobile_export.pte_graph import Graph, Node, read_graph
from rdsdk.runtime.artefact import SEAL, seal

Mutation = Callable[[PTEFile, dict[str, Graph]], None]
_STOP = frozenset({"bmm", "linear", "_softmax", "convolution"})


def unsealed(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: data.rindex(SEAL)]


def mutated(source: Path, target: Path, mutation: Mutation) -> Path:
    """A file like another but for one fault, sealed anew."""
    program = unsealed(source)
    file = deserialize_pte_binary(program)
    mutation(file, read_graph(program).methods)
    target.write_bytes(seal(bytes(serialize_pte_binary(file, extract_delegate_segments=True))))
    return target


def nothing(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """The control: taken apart and put together."""


def crossed_maps(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """The last two layers, each of another group, apply each other's maps: as many readers of each
    map as before."""
    for plan, graph in _plans(file, graphs):
        applied = [node for node in _products(graph) if _softmax(graph, node)]
        maps = [_map_value(graph, node) for node in applied[-2:]]
        for node, right, wrong in zip(applied[-2:], maps, reversed(maps), strict=True):
            _hand(plan, node, right, wrong)


def wrong_map(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """The last layer is handed the map of the group before its own."""
    for plan, graph in _plans(file, graphs):
        applied = [node for node in _products(graph) if _softmax(graph, node)]
        wrong, right = (_map_value(graph, node) for node in applied[-2:])
        _hand(plan, applied[-1], right, wrong)


def dropped_scale(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """1 / sqrt(head width) becomes 1."""
    numbers = set()
    for plan, graph in _plans(file, graphs):
        for node in _products(graph):
            if _softmax(graph, node):
                continue
            for scaling in graph.origins(node.reads[0], frozenset({"multiply"})):
                if isinstance(scaling, Node):
                    numbers |= _scalars(plan, scaling)
    assert numbers
    for number in numbers:
        file.program.constant_buffer[number].storage = struct.pack("<f", 1.0)


def dropped_bias(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """The bias of the last layer's output projection becomes zeros."""
    for name, linear in _linear_of(file, graphs, _after_last_attention):
        _store(file, name(linear["bias_id"]), lambda data: bytes(len(data)))


def transposed_heads(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """The values of the last layer come out with heads and channels of a head swapped."""

    def swap(data: bytes) -> bytes:
        rows = np.frombuffer(data, np.uint8).reshape(4, 8, -1)
        return rows.swapaxes(0, 1).tobytes()

    for name, linear in _linear_of(file, graphs, _values_of_last):
        _store(file, name(linear["filter_id"]), swap)


def flipped_bit(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """One bit of one weight: the lowest of an exponent, or of an int8 weight's upper half."""

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[3] ^= 0x40
        return bytes(changed)

    for name, linear in _linear_of(file, graphs, _after_last_attention):
        _store(file, name(linear["filter_id"]), flip)


def kept_state(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """The keys that a call gives are those that it was given: nothing new is remembered."""
    for plan, _ in _plans(file, graphs):
        plan.outputs[-3] = plan.inputs[2]


def forgotten_state(file: PTEFile, graphs: dict[str, Graph]) -> None:
    """What was remembered of the values is not read: the values of the layer itself are, twice."""
    for plan, _ in _plans(file, graphs):
        keys, values = plan.inputs[2], plan.inputs[3]
        for instruction in plan.chains[0].instructions:
            call = instruction.instr_args
            if isinstance(call, (schema.KernelCall, schema.DelegateCall)) and values in call.args:
                layers = plan.values[keys].val.sizes[0]
                call.args[call.args.index(values)] = keys
                if isinstance(call, schema.KernelCall):
                    _first_layer(plan, call, layers)


def _first_layer(plan: schema.ExecutionPlan, call: schema.KernelCall, layers: int) -> None:
    """Point a select at a layer that the keys have."""
    number = plan.values[call.args[2]].val
    if isinstance(number, schema.Int) and number.int_val >= layers:
        zero = schema.EValue(schema.Int(0))
        plan.values.append(zero)
        call.args[2] = len(plan.values) - 1


def with_card(program: bytes, card_json: str) -> bytes:
    """The same program with another card, as long as it likes."""
    file = deserialize_pte_binary(program)
    (plan,) = [plan for plan in file.program.execution_plan if plan.name == "card"]
    (value,) = [value for value in plan.values if isinstance(value.val, schema.String)]
    value.val.string_val = card_json
    return bytes(serialize_pte_binary(file, extract_delegate_segments=True))


def _plans(file: PTEFile, graphs: dict[str, Graph]) -> Iterator[tuple[schema.ExecutionPlan, Graph]]:
    for plan in file.program.execution_plan:
        if plan.name in graphs:
            yield plan, graphs[plan.name]


def _products(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.operator == "bmm"]


def _softmax(graph: Graph, product: Node) -> Node | None:
    origins = graph.origins(product.reads[0], _STOP)
    found = [one for one in origins if isinstance(one, Node) and one.operator == "_softmax"]
    return found[0] if found else None


def _map_value(graph: Graph, product: Node) -> int:
    softmax = _softmax(graph, product)
    assert softmax is not None
    ((place, index),) = softmax.writes
    assert place == 0, "a map that is reused leaves the delegate that computes it"
    return index


def _hand(plan: schema.ExecutionPlan, node: Node, right: int, wrong: int) -> None:
    """Give the delegate call that a node is part of another value."""
    assert node.delegate is not None
    arguments = _delegate_calls(plan)[node.delegate - 1].args
    arguments[arguments.index(right)] = wrong


def _delegate_calls(plan: schema.ExecutionPlan) -> list[schema.DelegateCall]:
    calls = [one.instr_args for one in plan.chains[0].instructions]
    return [call for call in calls if isinstance(call, schema.DelegateCall)]


def _scalars(plan: schema.ExecutionPlan, node: Node) -> set[int]:
    """Numbers of the constant buffers of single values that a node reads."""
    tensors = [plan.values[index].val for place, index in node.reads if place == 0]
    return {t.data_buffer_idx for t in tensors if not t.sizes and t.data_buffer_idx}


def _after_last_attention(graph: Graph) -> int:
    applied = [node for node in _products(graph) if _softmax(graph, node)]
    after = graph.nodes[graph.nodes.index(applied[-1]) :]
    return _number(graph, next(node for node in after if node.operator == "linear"))


def _values_of_last(graph: Graph) -> int:
    applied = [node for node in _products(graph) if _softmax(graph, node)]
    (linear,) = [
        one
        for one in graph.origins(applied[-1].reads[1], _STOP)
        if isinstance(one, Node) and one.operator == "linear"
    ]
    return _number(graph, linear)


def _number(graph: Graph, wanted: Node) -> int:
    """How many linear layers run before this one."""
    return [node for node in graph.nodes if node.operator == "linear"].index(wanted)


def _linear_of(
    file: PTEFile, graphs: dict[str, Graph], chosen: Callable[[Graph], int]
) -> Iterator[tuple[Callable[[int], str], dict[str, Any]]]:
    """A linear layer of each method as its payload has it, and what names a value's weights."""
    payloads = pte_graph._payloads(file)
    for plan, graph in _plans(file, graphs):
        called = [
            payloads[plan.delegates[call.delegate_index].processed.index]
            for call in _delegate_calls(plan)
        ]
        linears = [
            (payload, node["xnode_union"])
            for payload in called
            for node in payload["xnodes"]
            if node["xnode_union_type"] == "XNNFullyConnected" and not _is_mean(payload, node)
        ]
        payload, linear = linears[chosen(graph)]

        def name(identity: int, payload: dict[str, Any] = payload) -> str:
            values = [value["xvalue_union"] for value in payload["xvalues"]]
            plain = [value.get("tensor_value", value) for value in values]
            (index,) = [v["constant_buffer_idx"] for v in plain if v["id_out"] == identity]
            return str(payload["constant_data"][index]["named_key"])

        yield name, linear
        return  # the methods share their weights


def _is_mean(payload: dict[str, Any], node: dict[str, Any]) -> bool:
    """Whether a product with one row is the mean of a spelled norm."""
    values = [value["xvalue_union"] for value in payload["xvalues"]]
    plain = {v["id_out"]: v for v in (value.get("tensor_value", value) for value in values)}
    return bool(plain[node["xnode_union"]["output_id"]]["dims"][-1] == 1)


def _store(file: PTEFile, name: str, change: Callable[[bytes], bytes]) -> None:
    assert file.named_data is not None
    number = file.named_data.pte_data[name].buffer_index
    before = bytes(file.named_data.buffers[number])
    after = change(before)
    assert len(after) == len(before)
    assert after != before
    file.named_data.buffers[number] = after
