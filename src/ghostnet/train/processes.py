"""What the processes of one run, started by `torchrun`, do together: means of losses, sums of counts, one state.

Without `torchrun` there is one process and all of this costs nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from ghostnet.errors import InputError


def join_processes() -> tuple[int, int]:
    """Join the other processes of this `torchrun`, if there are any.

    Returns:
        This process's rank and the number of processes.
    """
    make_accelerator()
    return share_of_processes()


def leave_processes() -> None:
    """Say goodbye to the other processes, which wait for it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def make_accelerator() -> Any:
    """Return accelerate's view of devices and processes; on a machine without a GPU the processes talk by gloo."""
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.accelerator.is_available())


def share_of_processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def check_batch_size(batch_size: int) -> None:
    """Raise unless every process gets as many images of a batch, so that the mean of their gradients is the batch's.

    Raises:
        InputError: the batch size is not a multiple of the number of processes.
    """
    _, processes = share_of_processes()
    if batch_size % processes:
        raise InputError(
            f"`batch_size` (={batch_size}) counts the images of all {processes} processes and must be a multiple of it"
        )


def mean_over_processes(value: Tensor) -> float:
    """Return the mean of a scalar."""
    _, processes = share_of_processes()
    if processes > 1:
        torch.distributed.all_reduce(value)
        value = value / processes
    return float(value)


def sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    """Return the sums of some counts."""
    _, processes = share_of_processes()
    if processes == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return [float(value) for value in total]


def union_over_processes(values: dict[str, str]) -> dict[str, str]:
    """Return the entries of every process's dictionary, sorted by key."""
    _, processes = share_of_processes()
    gathered: list[Any] = [values]
    if processes > 1:
        gathered = [None] * processes
        torch.distributed.all_gather_object(gathered, values)
    return dict(sorted(item for found in gathered for item in found.items()))


def wait_for_first() -> AbstractContextManager[Any]:
    """Return a context in which the first process goes ahead and the others follow when it is done."""
    return make_accelerator().main_process_first()


def share_buffers_(model: nn.Module) -> None:
    """Give every process the first one's buffers: each has gathered batch-norm statistics of its own images."""
    _, processes = share_of_processes()
    if processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def seed_step(seed: int, step: int) -> None:
    """Give each process random numbers (dropout) of its own, on whatever device, that follow from seed and step alone.

    A resumed run then has them too, and what a process did before does not matter.
    """
    rank, _ = share_of_processes()
    mixed = np.random.SeedSequence([seed, 2, step, rank]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed) >> 1)
