"""Fully sharded data parallelism: every process holds a part of each weight of the student.

PyTorch's ``fully_shard`` (FSDP2), with the gradients and figures of DDP. The frozen teacher is no
part of the module and stays whole on every device. What leaves a run is whole as well: ``best/``,
``last/`` and the resume file have the form that one process gives them, so that a run can go on
with another strategy or number of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from rdsdk.models.encoder import EncoderLayer
from rdsdk.models.student import Student


def shard(student: Student, mesh: DeviceMesh | None, whole_after_forward: bool = True) -> None:
    """Shard a student's weights over all processes, in place; without a mesh nothing happens.

    An attention map, the rest of its layer, and all that is not in a layer are each gathered when
    they run. Every process must hold the same weights before.

    Args:
        mesh: a LightningModule's ``device_mesh``: None unless its strategy is ``Sharded``.
        whole_after_forward: what is not in a layer stays gathered until the backward pass, because
            a loss calls the projection heads outside of the student's forward.
    """
    if mesh is None:
        return
    # Hidden states and cached frames are views of one another; nothing is changed in place.
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")
    over = mesh["data_parallel"]
    for layer in student.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        if layer.attention_map is not None:
            # It runs beside its layer's forward, not in it.
            fully_shard(layer.attention_map, mesh=over)
        fully_shard(layer, mesh=over)
    fully_shard(student, mesh=over, reshard_after_forward=not whole_after_forward)
    for method in ("embed", "hear"):
        register_fsdp_forward_method(student, method)


def shard_module(module: nn.Module | None, mesh: DeviceMesh | None) -> None:
    """Shard a module that is called as one; nothing happens without a module or a mesh."""
    if module is not None and mesh is not None:
        fully_shard(module, mesh=mesh["data_parallel"])


def whole(student: Student) -> Student:
    """The student itself, or if it is sharded a whole copy of it on the CPU.

    All processes must call it together.
    """
    if not any(isinstance(parameter, DTensor) for parameter in student.parameters()):
        return student
    # The copy's own initial weights must not change what a run draws next.
    with torch.random.fork_rng(devices=()):
        made = Student(student.config, student.symbols, student.projection_width)
    made.load_state_dict({name: _gathered(value) for name, value in student.state_dict().items()})
    return made.eval()


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for ``fully_shard``, over all devices of all nodes.

    Resume files are those of a single process. Lightning's own number the optimiser's state in
    another order, and cannot be read back while some weight has had no gradient (mel start).
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        # Lightning's "auto" would shard over the nodes only.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return {n: _gathered(value) for n, value in self.lightning_module.state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        saved = plain.state_dict()
        saved["state"] = {
            number: {name: _gathered(value) for name, value in state.items()}
            for number, state in saved["state"].items()
        }
        return saved

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = self.checkpoint_io.load_checkpoint(
            checkpoint_path, map_location="cpu", weights_only=weights_only
        )
        return loaded

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        held = self.lightning_module.state_dict()
        saved = {n: _shared_out(v, held.get(n)) for n, v in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(saved, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            held = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [n for group in saved["param_groups"] for n in group["params"]]
            parameters = dict(zip(numbers, held, strict=True))
            state = {
                number: {name: _shared_out(v, parameters[number]) for name, v in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def _gathered(value: Any) -> Any:
    """The whole of a sharded tensor, on the CPU; anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _shared_out(value: Any, like: Any) -> Any:
    """This process's part of a whole tensor, if ``like`` is sharded and of the same shape."""
    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
