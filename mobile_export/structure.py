"""What a lowered graph computes: its operators, and who reads each attention map."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch.fx import GraphModule, Node

from rdsdk.errors import ExportError
from rdsdk.models.config import EncoderConfig

HOT = ("convolution", "linear", "mm", "addmm", "bmm", "_softmax", "gelu")
"""Operators that cost time: outside the delegate, slow kernels would run them."""


@dataclass(frozen=True)
class Structure:
    """One lowered method."""

    delegates: int
    delegated: Counter[str]
    """Operators inside the delegates, by name."""
    outside: Counter[str]
    """Operators that the portable and optimised kernels run, by name."""
    map_readers: tuple[Counter[str], ...]
    """For each softmax over an attention map, in order, how many products (``bmm``) and further
    softmaxes read it; the one of the log_probs is no such map."""


def operators(module: GraphModule) -> Counter[str]:
    """How often each operator stands in a graph, by its bare name: ``aten.bmm.default`` -> bmm."""
    return Counter(name for node in module.graph.nodes if (name := _operator(node)))


def structure(module: GraphModule) -> Structure:
    """Look through a lowered graph and into its delegates."""
    calls = list(_delegate_calls(module))
    delegated = Counter[str]()
    for _, inner in calls:
        delegated += operators(inner)
    return Structure(len(calls), delegated, operators(module), _map_readers(module, calls))


def check_structure(config: EncoderConfig, method: str, found: Structure) -> None:
    """One attention map an owner, read by exactly its group, and nothing hot outside the delegate.

    Raises:
        ExportError: names what is off.
    """
    expected = _expected_readers(config)
    softmaxes = found.delegated["_softmax"] + found.outside["_softmax"]
    if softmaxes != len(expected):
        raise ExportError(
            f"the lowered {method} computes {softmaxes} attention maps, the architecture has "
            f"{len(expected)}: reuse was lost in lowering"
        )
    if list(found.map_readers) != expected:
        raise ExportError(
            f"in the lowered {method} the attention maps are read by "
            f"{[dict(readers) for readers in found.map_readers]}, the architecture says "
            f"{[dict(readers) for readers in expected]}"
        )
    left = {name: found.outside[name] for name in HOT if found.outside[name]}
    if left:
        raise ExportError(
            f"these operators of {method} stayed outside the XNNPACK delegate: {left}"
        )


def _expected_readers(config: EncoderConfig) -> list[Counter[str]]:
    group = Counter(config.map_owner)
    again = config.reused_map == "softmax_again"
    expected = []
    softened: set[int] = set()
    for layer, owner in enumerate(config.map_owner):
        reusing = group[owner] - 1
        if layer == owner:
            # With a second softmax the group shares that one, and only it reads the owner's map.
            alone = again and reusing
            expected.append(Counter({"bmm": 1, "_softmax": 1} if alone else {"bmm": 1 + reusing}))
        elif again and owner not in softened:
            softened.add(owner)
            expected.append(Counter({"bmm": reusing}))
    return expected


def _operator(node: Node) -> str | None:
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return None if schema is None else str(schema.name).split("::")[-1]


def _delegate_calls(module: GraphModule) -> Iterator[tuple[Node, GraphModule]]:
    """Each call of a delegate and the graph that was handed to it."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.args and isinstance(node.args[0], Node):
            lowered = getattr(module, str(node.args[0].target), None)
            if isinstance(lowered, LoweredBackendModule):
                yield node, lowered.original_module.graph_module


def _map_readers(
    module: GraphModule, calls: list[tuple[Node, GraphModule]]
) -> tuple[Counter[str], ...]:
    inner_of = dict(calls)
    call_of = {id(inner.graph): call for call, inner in calls}
    softmaxes = [
        node
        for outer in module.graph.nodes
        for node in (inner_of[outer].graph.nodes if outer in inner_of else [outer])
        if _operator(node) == "_softmax"
    ]
    return tuple(_readers(node, inner_of, call_of) for node in softmaxes)


def _readers(
    source: Node, inner_of: dict[Node, GraphModule], call_of: dict[int, Node]
) -> Counter[str]:
    """Follow a value through what only reshapes or scales it, in and out of delegates."""
    found = Counter[str]()
    seen: set[Node] = {source}
    waiting = deque([source])
    while waiting:
        node = waiting.popleft()
        for user in node.users:
            if _operator(user) in ("bmm", "mm", "linear", "_softmax"):
                if user not in seen:
                    found[str(_operator(user))] += 1
                    seen.add(user)
                continue
            following = [user]
            if user.op == "output":
                following = _outside(node, user, call_of)
            elif user in inner_of:
                following = _inside(node, user, inner_of[user])
            waiting.extend(one for one in following if one not in seen)
            seen.update(following)
    return found


def _outside(node: Node, output: Node, call_of: dict[int, Node]) -> list[Node]:
    """Where a delegate's result appears in the graph around it."""
    call = call_of.get(id(node.graph))
    if call is None:
        return []
    results = output.args[0]
    assert isinstance(results, (list, tuple))
    return [item for item in call.users if results[item.args[1]] is node]  # type: ignore[index]


def _inside(node: Node, call: Node, inner: GraphModule) -> list[Node]:
    """Where an argument of a delegate's call appears in its own graph: after the weights."""
    arguments = call.args[1:]
    places = [place for place in inner.graph.nodes if place.op == "placeholder"]
    given = places[len(places) - len(arguments) :]
    return [place for place, got in zip(given, arguments, strict=True) if got is node]
