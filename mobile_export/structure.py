"""What the graph in a ``.pte`` computes: which map each layer applies, which layers own queries and
keys, what a state does, and what is left outside the delegate.

Everything is read off the file, by following values from node to node; nothing is taken from the
program that was exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobile_export.pte_graph import Graph, Node, PteGraph, Value
from rdsdk.models.config import EncoderConfig
from rdsdk.models.energies import constant_values

HOT = ("convolution", "linear", "mm", "addmm", "bmm", "_softmax", "gelu")
"""Operators that cost time: outside the delegate, slow kernels would run them."""
_PRODUCTS = frozenset({"bmm", "linear", "convolution", "_softmax", "mm", "addmm"})
CARD_METHOD = "card"
WAVEFORM = "waveform"
FREE_OF_WAVEFORM = frozenset({"valid"})
"""State that says how much was heard, not what."""


@dataclass(frozen=True)
class LayerMap:
    """The attention map that one layer applies, found in the graph.

    ``owner`` is the first layer that applies a map of the same softmax; ``again`` says whether the
    map goes through a second softmax before this layer applies it.
    """

    owner: int
    again: bool


@dataclass(frozen=True)
class Structure:
    """One method of a file.

    ``softmaxes`` counts those over attention maps; ``linears`` are the linear layers between one
    application of a map and the next: the output, two of the feed-forward, values, and in an owner
    queries and keys. Its first entry is before the first application, extractor included.
    """

    delegates: int
    delegated: Counter[str]
    outside: Counter[str]
    softmaxes: int
    maps: tuple[LayerMap, ...]
    linears: tuple[int, ...]
    state: tuple[str, ...]
    depends: Mapping[str, frozenset[str]]
    """For each output, the inputs that it depends on."""
    faults: tuple[str, ...]
    """What could not be understood as an encoder."""

    @property
    def map_owner(self) -> tuple[int, ...]:
        """For each layer the owner of its map, as EncoderConfig has it."""
        return tuple(layer.owner for layer in self.maps)

    def to_dict(self) -> dict[str, Any]:
        """A JSON value for the report."""
        return {
            "delegate_calls": self.delegates,
            "outside": dict(self.outside.most_common()),
            "softmaxes": self.softmaxes,
            "map_owner": list(self.map_owner),
            "softmax_again": [layer for layer, found in enumerate(self.maps) if found.again],
            "linear_layers": list(self.linears),
        }


def structure(
    graph: Graph, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()
) -> Structure:
    """Look through one method; ``inputs`` and ``outputs`` name its tensors, as the card does."""
    maps, linears, faults = _layers(graph)
    names = dict(zip(graph.inputs, inputs, strict=False))
    depends = {
        name: frozenset(names[origin] for origin in graph.origins(value) if origin in names)
        for name, value in zip(outputs, graph.outputs, strict=False)
    }
    return Structure(
        graph.delegates,
        graph.operators(delegated=True),
        graph.operators(delegated=False),
        sum(node.operator == "_softmax" for node in graph.nodes),
        tuple(maps),
        tuple(linears),
        tuple(name for name in inputs if name != WAVEFORM),
        depends,
        tuple(faults),
    )


def structure_faults(config: EncoderConfig, method: str, found: Structure) -> list[str]:
    """What is not as the architecture says, each in a sentence; empty when all is."""
    faults = [f"{method}: {fault}" for fault in found.faults]
    expected = _expected_softmaxes(config)
    if found.softmaxes != expected:
        faults.append(
            f"{method} computes {found.softmaxes} attention maps, the architecture has {expected}: "
            "reuse was lost in lowering"
        )
    if found.map_owner != config.map_owner:
        faults.append(
            f"the layers of {method} apply the attention maps of layers {list(found.map_owner)}, "
            f"the architecture says {list(config.map_owner)}"
        )
    elif not faults:
        faults += _softmax_faults(config, method, found) + _linear_faults(config, method, found)
    gelus = len(config.convs) + 1 + config.layers + (1 if config.mel_bands else 0)
    if found.delegated["gelu"] != gelus:
        faults.append(
            f"{method} has {found.delegated['gelu']} exact GELUs, the architecture has {gelus}"
        )
    left = {name: found.outside[name] for name in HOT if found.outside[name]}
    if left:
        faults.append(f"these operators of {method} stayed outside the XNNPACK delegate: {left}")
    return faults + _state_faults(method, found)


def file_faults(
    config: EncoderConfig, methods: Mapping[str, Any], parameters: int, graph: PteGraph
) -> tuple[dict[str, Structure], list[str]]:
    """The structure of each method that a card names, and what is wrong with the whole file.

    ``methods`` are those of the card, each with ``inputs`` and ``outputs``.
    """
    faults: list[str] = []
    if set(graph.methods) != set(methods) or graph.constants != {CARD_METHOD}:
        faults.append(
            f"the file has the methods {sorted(graph.methods)} and the constants "
            f"{sorted(graph.constants)}, its card says {sorted(methods)} and ['{CARD_METHOD}']"
        )
    found = {}
    for name in sorted(set(graph.methods) & set(methods)):
        inputs, outputs = tuple(methods[name].inputs), tuple(methods[name].outputs)
        lowered = graph.methods[name]
        if (len(lowered.inputs), len(lowered.outputs)) != (len(inputs), len(outputs)):
            faults.append(
                f"{name} takes {len(lowered.inputs)} and gives {len(lowered.outputs)} tensors, the "
                f"card names {list(inputs)} and {list(outputs)}"
            )
            continue
        found[name] = structure(lowered, inputs, outputs)
        faults += structure_faults(config, name, found[name])
    faults += _weight_faults(graph, parameters, constant_values(config.mel_bands))
    return found, faults


def _weight_faults(graph: PteGraph, parameters: int, constants: int) -> list[str]:
    """Stored twice, or by no method used: weights that make the file larger for nothing."""
    faults = []
    used = frozenset[str]().union(*(method.weights for method in graph.methods.values()))
    stray = {name: size for name, size in graph.weights.items() if name not in used}
    if sum(stray.values()) > 4096:
        faults.append(f"{len(stray)} stored weights of {sum(stray.values())} bytes are never used")
    # Small tensors (masks, scales, indices) come with every method; 64 KiB are ample for them.
    values = parameters + constants
    if graph.weight_bytes > 1.1 * 4 * values + 65_536:
        faults.append(
            f"the weights take {graph.weight_bytes} bytes, {values} values of float32 need "
            f"{4 * values}: something is stored more than once"
        )
    return faults


def _layers(graph: Graph) -> tuple[list[LayerMap], list[int], list[str]]:
    """The map of each layer, the linear layers between them, and what is no encoder's."""
    faults: list[str] = []
    maps: list[LayerMap] = []
    linears = [0]
    owner_of: dict[Node, int] = {}
    for node in graph.nodes:
        if node.operator == "linear":
            linears[-1] += 1
        if node.operator != "bmm":
            continue
        softmaxes = _sources(graph, node.reads[0], "_softmax")
        if not softmaxes:
            continue  # queries times keys
        layer = len(maps)
        first = _sources(graph, softmaxes[0].reads[0], "_softmax")
        root = first[0] if first else softmaxes[0]
        if len(softmaxes) > 1 or len(first) > 1:
            faults.append(f"layer {layer} applies a mixture of attention maps")
        maps.append(LayerMap(owner_of.setdefault(root, layer), bool(first)))
        linears.append(0)
        if len(_sources(graph, node.reads[1], "linear")) != 1:
            faults.append(f"layer {layer} does not apply its map to the values of one linear layer")
        if owner_of[root] == layer:
            faults += _owner_faults(graph, layer, root)
    return maps, linears, faults


def _owner_faults(graph: Graph, layer: int, softmax: Node) -> list[str]:
    """An owner's map is the softmax of one product of queries and keys, each of a linear layer."""
    products = _sources(graph, softmax.reads[0], "bmm")
    if len(products) != 1:
        return [f"the attention map of layer {layer} is made of {len(products)} products"]
    made = [_sources(graph, value, "linear") for value in products[0].reads]
    if [len(one) for one in made] != [1, 1] or made[0] == made[1]:
        return [f"the attention map of layer {layer} is no product of its queries and its keys"]
    return []


def _sources(graph: Graph, value: Value, operator: str) -> list[Node]:
    """The nodes of an operator that a value comes from without another product in between."""
    origins = graph.origins(value, _PRODUCTS)
    return [one for one in origins if isinstance(one, Node) and one.operator == operator]


def _expected_softmaxes(config: EncoderConfig) -> int:
    again = config.reused_map == "softmax_again"
    sharing = [owner for owner, size in Counter(config.map_owner).items() if size > 1]
    # With a second softmax, a group that reuses shares that one.
    return len(config.owners) + (len(sharing) if again else 0)


def _softmax_faults(config: EncoderConfig, method: str, found: Structure) -> list[str]:
    again = config.reused_map == "softmax_again"
    wrong = [
        layer
        for layer, owner in enumerate(config.map_owner)
        if found.maps[layer].again != (again and owner != layer)
    ]
    if not wrong:
        return []
    expected = "through" if again else "without"
    return [
        f"in {method} the layers {wrong} do not do as the architecture says, which applies reused "
        f"maps {expected} a second softmax"
    ]


def _linear_faults(config: EncoderConfig, method: str, found: Structure) -> list[str]:
    """Queries and keys in owners only: 6 linear layers there, 4 in a layer that reuses a map."""
    faults = []
    for layer in range(1, config.layers):
        expected = 6 if config.map_owner[layer] == layer else 4
        if found.linears[layer] != expected:
            faults.append(
                f"in {method} {found.linears[layer]} linear layers lie between the attention of "
                f"layer {layer - 1} and of layer {layer}, expected {expected}: a layer that reuses "
                "a map has no queries and keys"
            )
    head = int("log_probs" in found.depends)
    if found.linears[-1] != 3 + head:
        faults.append(
            f"in {method} {found.linears[-1]} linear layers follow the last attention, expected "
            f"{3 + head}"
        )
    return faults


def _state_faults(method: str, found: Structure) -> list[str]:
    """What is remembered must be used, and must be renewed by what is heard."""
    faults = []
    for output, depends in found.depends.items():
        if output not in found.state:
            wanted = {WAVEFORM, *found.state}
        elif output in FREE_OF_WAVEFORM:
            wanted = {output}
        else:
            wanted = {WAVEFORM, output}
        if missing := sorted(wanted - depends):
            faults.append(f"in {method} the output {output} does not depend on {missing}")
    return faults
