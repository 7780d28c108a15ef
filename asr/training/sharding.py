"""FSDP: each process keeps a share of the parameters, of their gradients, averages and moments.

It is torch's `fully_shard` (FSDP2, Zhao et al. 2023, arXiv 2304.11277): a block's parameters are put together while it
runs, and what is not in a block while a whole batch is trained on. Single numbers, of which there are no shares, are in
every process. Checkpoints hold everything whole, so runs go on with another strategy or number of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from asr.training.processes import rank

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["FullySharded", "local", "norms", "over_shards", "shard_like", "shards_of", "unsharded", "whole"]


class FullySharded(DDPStrategy):
    """Lightning's DDP, with the task's model in shards."""

    def configure_ddp(self) -> None:
        task: Any = self.lightning_module
        for value in task.state_dict().values():  # all begin as the first one does
            dist.broadcast(value, 0)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        numbers = {p for p in task.parameters() if p.ndim == 0}
        for block in task.subject.blocks():
            fully_shard(block, mesh=mesh, ignored_params=numbers)
            if any(getattr(part, "pad_input", False) for part in block.modules()):
                register_fsdp_forward_method(block, "init_state")  # it asks for weights
        fully_shard(task, mesh=mesh, ignored_params=numbers)
        register_fsdp_forward_method(task, "training_step")
        task.average.shard(task.model)

    def post_backward(self, closure_loss: Tensor) -> None:
        """The gradients of what is in every process; `fully_shard` has seen to the others."""
        assert self.lightning_module is not None
        gradients = [p.grad for p in self.lightning_module.parameters() if p.ndim == 0 and p.grad is not None]
        if gradients:
            mean = torch.stack(gradients)
            dist.all_reduce(mean)
            torch._foreach_copy_(gradients, list((mean / self.world_size).unbind()))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return {name: whole(value) for name, value in self.lightning_module.state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = super().optimizer_state(optimizer)
        return state | {
            "state": {i: {k: whole(v) for k, v in one.items()} for i, one in state["state"].items()}
        }

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            shards = {
                i: {k: shard_like(v, parameters[i]) for k, v in one.items()}
                for i, one in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": shards})


def local(x: Tensor) -> Tensor:
    """This process' share of a tensor in shards, on the same memory; any other tensor as it is."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Any) -> Any:
    """All of a tensor in shards, on the first process' CPU; anything else as it is.

    All processes must ask; the others get an empty tensor, for they write no files.
    """
    if not isinstance(x, DTensor):
        return x
    full = x.full_tensor()
    return full.new_empty(0) if rank() else full.cpu()


def shard_like(x: Any, p: Tensor) -> Any:
    """A whole tensor of the shape of a parameter in shards -> shards like the parameter's; anything else as it is."""
    if isinstance(p, DTensor) and isinstance(x, Tensor) and not isinstance(x, DTensor) and x.shape == p.shape:
        return distribute_tensor(x.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
    return x


def shards_of(share: Tensor, p: Tensor) -> Tensor:
    """This process' share, on the same memory, as part of a tensor in shards like a parameter's."""
    if not isinstance(p, DTensor):
        return share
    return DTensor.from_local(
        share, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )


def over_shards(sums: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Sums (N,) over this process' share of each of N tensors -> sums over all of each."""
    in_shards = [isinstance(x, DTensor) for x in tensors]
    if not any(in_shards):
        return sums
    total = sums.clone()
    dist.all_reduce(total)
    return torch.where(torch.tensor(in_shards, device=sums.device), total, sums)


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of each of N tensors, (N,)."""
    found = torch.stack(torch._foreach_norm([local(x) for x in tensors]))
    if not any(isinstance(x, DTensor) for x in tensors):
        return found
    return over_shards(found.square(), tensors).sqrt()


@contextlib.contextmanager
def unsharded(task: nn.Module) -> Iterator[None]:
    """While it lasts, every process has all parameters: for decoding, which goes to parts of the model as it likes."""
    parts = [module for module in task.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not task, recurse=False)
