"""Several processes that train one generator: `torchrun --nproc-per-node=N -m inpaint train …`.

Each process is a rank. It makes its own share of every batch, gradients are averaged by PyTorch's
DistributedDataParallel (gloo on CPUs, NCCL on GPUs), and rank 0 alone reports and writes. Without
torchrun there is one rank, and nothing here does anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inpaint.errors import InpaintError, StartFailed


@contextmanager
def ranks(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, and yield the device of this one.

    Raises:
        StartFailed: if the others cannot be reached, or the device is one that ranks cannot share.
        InpaintError: if another rank is gone later.
    """
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if device.startswith("cuda:"):
        raise StartFailed(
            f"with torchrun, name --device cuda and not {device}: each rank has its own."
        )
    try:
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("gloo" if device == "cpu" else "nccl")
    except (KeyError, RuntimeError, ValueError) as error:
        raise StartFailed(f"the ranks cannot be joined: {error}") from error
    try:
        yield device
    except RuntimeError as error:
        # gloo's are of no class of their own, but name the place in its source
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise InpaintError("another rank is gone; run the same line again to go on") from error
        raise
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shared(network: nn.Module) -> nn.Module:
    """Return the network as it is called in training: its gradients are the mean of all ranks'.

    Statistics of batch normalisation stay each rank's own; rank 0's are saved.
    """
    if count() == 1:
        return network
    return DistributedDataParallel(network, forward_sync_buffers=False)


def any_of(true: bool, device: torch.device) -> bool:
    """Say whether something is true for at least one rank."""
    return bool(mean(torch.tensor(float(true), device=device)) > 0)


def mean(value: Tensor) -> Tensor:
    """Return the mean over all ranks of a tensor; no gradient passes."""
    value = value.detach().clone()
    if count() > 1:
        dist.all_reduce(value)
        value /= count()
    return value
