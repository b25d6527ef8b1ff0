"""Small networks that give the same result in every run: seeded inside, without touching the state outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded_torch(seed: int) -> Iterator[None]:
    """Torch's random numbers from ``seed`` on one thread, both put back at the end.

    The sums of a matrix product depend on how threads share it, and what a network learns on those sums.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - inside fork_rng
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
