"""What XNNPACK does not get: the same function, without copies that only a delegate makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import Tensor, nn
from torch.export import Dim

from mobile_export import executorch as lowering
from mobile_export.executorch import lower
from mobile_export.programs import Method
from mobile_export.pte_graph import VIEW, Graph, read_graph
from rdsdk.runtime import executorch

WIDTH, JOINED = 8, 7


class Cutting(nn.Module):
    """Frames as blocks beside a strided cut of them, as in the extractor; many cuts joined, as in
    the position convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Linear(2 * WIDTH, WIDTH)
        self.singles = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_btd: Tensor) -> Tensor:
        x_btd = F.gelu(x_btd)
        y_btd = self.blocks(x_btd.view(1, -1, 2 * WIDTH)) + self.singles(x_btd[:, ::2])
        cuts = [y_btd[:, start : y_btd.shape[1] - JOINED + start] for start in range(JOINED)]
        return F.gelu(torch.cat(cuts, dim=1).view(JOINED, -1, WIDTH))


def program_of(module: nn.Module, dynamic: bool = True) -> bytes:
    shapes = ({1: 2 * Dim("half", min=20, max=200)},) if dynamic else None
    example = (torch.randn(1, 64, WIDTH),)
    return lower({"forward": Method(module, example, shapes, ("x",), ("y",), 40, 400)}, "{}")


def copied_reshapes(graph: Graph) -> int:
    """Reshapes inside of a delegate of tensors that lie outside of it."""
    inside = {v: n.delegate for n in graph.nodes if n.delegate for v in n.writes if v[0]}
    return sum(
        node.operator == "static_reshape" and node.reads[0] not in inside
        for node in graph.nodes
        if node.delegate
    )


def joins(graph: Graph) -> list[int]:
    """How many tensors each concatenation inside of a delegate joins."""
    found = [node for node in graph.nodes if node.delegate and "concat" in node.operator]
    return [len(node.reads) for node in found]


def run(program: bytes, x_btd: Tensor) -> np.ndarray:
    with executorch.quiet():
        module = executorch.binding()._load_for_executorch_from_buffer(program)
    return np.asarray(module.run_method("forward", [x_btd])[0])


def test_no_delegate_copies_what_need_not_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Cutting().eval().requires_grad_(False)
    ours = program_of(module)
    graph = read_graph(ours).methods["forward"]
    assert graph.operators(delegated=True)["linear"] == 2
    assert graph.operators(delegated=True)["gelu"] == 2
    assert copied_reshapes(graph) == 0
    assert joins(graph) == []
    for frames in (40, 122):
        x_btd = torch.randn(1, frames, WIDTH)
        np.testing.assert_allclose(run(ours, x_btd), module(x_btd), atol=1e-5)

    # Negative control: XNNPACK's own choices do both.
    monkeypatch.setattr(lowering, "partitioner", XnnpackPartitioner)
    graph = read_graph(program_of(module)).methods["forward"]
    assert copied_reshapes(graph) > 0
    assert len(joins(graph)) > 1


def test_a_view_of_fixed_shape_is_followed_though_it_is_no_instruction() -> None:
    torch.manual_seed(0)
    module = Cutting().eval().requires_grad_(False)
    program = program_of(module, dynamic=False)
    graph = read_graph(program).methods["forward"]
    views = [node for node in graph.nodes if node.operator == VIEW]
    assert [graph.writer[view.reads[0]].operator for view in views] == ["cat"]
    (output,) = graph.outputs
    assert set(graph.inputs) <= set(graph.origins(output))
    assert graph.origins(output, stop=frozenset({"cat"})) == (graph.writer[views[0].reads[0]],)
    x_btd = torch.randn(1, 64, WIDTH)
    np.testing.assert_allclose(run(program, x_btd), module(x_btd), atol=1e-5)
