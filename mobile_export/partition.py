"""Which operators XNNPACK gets, where its partitioner would hand over copies that cost time.

Two of its own choices are undone. A reshape of a tensor that comes from outside a delegate is a
copy inside of it and none outside, where it is a view. A concatenation of many tensors is written
as concatenations of five, each of which copies what the ones before have copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import (
    CatConfig,
    ViewCopyConfig,
)
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.dialects._ops import ops
from torch.fx import Node

MOST_JOINED = 5
"""Tensors that XNNPACK concatenates at once."""


def _joins_many(node: Node) -> bool:
    joined = node.args[0]
    return isinstance(joined, Sequence) and len(joined) > MOST_JOINED


def _is_dynamic(node: Node) -> bool:
    return not all(isinstance(size, int) for size in node.meta["val"].shape)


def _is_cut_or_joined_outside(node: Node) -> bool:
    """XNNPACK cuts no single rows, and only pieces of fixed lengths."""
    if node.target is ops.edge.aten.cat.default:
        return _joins_many(node)
    if node.target is ops.edge.aten.slice_copy.Tensor:
        return _is_dynamic(node)
    return node.target is ops.edge.aten.select_copy.int


def _lies_outside(node: Node) -> bool:
    """Whether this tensor is in the program's own memory: made there, cut there, or a view."""
    if any(_is_cut_or_joined_outside(each) for each in (node, *node.users)):
        return True
    is_view = node.target is ops.edge.aten.view_copy.default
    return is_view and _lies_outside(node.all_input_nodes[0])


class _Joining(CatConfig):
    def check_constraints(self, node: Node, ep: Any) -> bool:
        return not _joins_many(node) and super().check_constraints(node, ep)


class _Reshaping(ViewCopyConfig):
    def check_constraints(self, node: Node, ep: Any) -> bool:
        viewed = node.all_input_nodes[0]
        return not _lies_outside(viewed) and super().check_constraints(node, ep)


def partitioner() -> XnnpackPartitioner:
    """XNNPACK's partitioner with these choices."""
    ours = {CatConfig: _Joining, ViewCopyConfig: _Reshaping}
    return XnnpackPartitioner([ours.get(config, config) for config in ALL_PARTITIONER_CONFIGS])
