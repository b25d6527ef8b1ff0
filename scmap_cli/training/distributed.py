"""One process or many: ranks from torchrun's or srun's environment, and the few collective calls the loop needs.

``torchrun --nproc-per-node N -m scmap_cli train ...`` and ``srun scmap train ...`` both work. Every rank takes its
rows of one seeded global order, so batch B on two ranks is batch 2B on one. Exceptions are a loss that is no mean over
cells, as the independence of unconstrained programs, and the peaks that SAILER and SAILERX hide and look at in a step,
which each rank draws for itself.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from scmap_cli.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among all of the run; ``local_world`` of these are on its machine, at most."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Whether a flag is set on any rank, for each flag."""
        if self.world == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.int32, device=device)
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return [bool(v) for v in values.tolist()]

    def gather(self, values: torch.Tensor) -> list[list[float]]:
        """For each of ``values``, what every rank holds."""
        if self.world == 1:
            return [[v] for v in values.tolist()]
        parts = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(parts, values)
        table: list[list[float]] = torch.stack(parts, 1).tolist()
        return table

    def agree(self, value: T) -> T:
        """What the first process holds; all wait for it."""
        if self.world == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def share(self, values: list[float]) -> float:
        """The part of this rank in a total that :meth:`gather` listed.

        Over another number of ranks it is scaled to theirs, as each value is a sum of means over a rank's cells.
        """
        if len(values) == self.world:
            return values[self.rank]
        return sum(values) * self.world / len(values) if self.first else 0.0


def ranks_from_environment() -> Ranks:
    """Read torchrun's variables, else those of a SLURM step with several tasks; one process if there are none."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        world = int(env["WORLD_SIZE"])
        here = int(env.get("LOCAL_WORLD_SIZE", world))
        return Ranks(int(env["RANK"]), world, int(env.get("LOCAL_RANK", "0")), here)
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in env:
        if "MASTER_ADDR" not in env and int(env.get("SLURM_STEP_NUM_NODES", "1")) > 1:
            raise UsageError(
                "several nodes, but MASTER_ADDR is not set",
                'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            )
        world = int(env["SLURM_STEP_NUM_TASKS"])
        # Tasks of each node, such as 4(x2),3.
        tasks = re.findall(r"(?:^|,)(\d+)", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
        here = max(map(int, tasks), default=world)
        return Ranks(int(env["SLURM_PROCID"]), world, int(env.get("SLURM_LOCALID", "0")), here)
    return Ranks()


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Join the other ranks for the block: NCCL on GPUs, gloo on CPUs; nothing to do for one process, or once joined."""
    if ranks.world == 1 or dist.is_initialized():
        yield
        return
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world)
    try:
        yield
    finally:
        # A DistributedDataParallel (it sits in reference cycles) that dies after the group takes the group's last
        # reference with it while it holds the interpreter lock, which a thread of gloo may be waiting for: a deadlock.
        gc.collect()
        dist.destroy_process_group()
