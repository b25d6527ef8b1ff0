"""Random numbers as a function of (seed, stream, step), so that resumed and distributed runs draw the same ones.

A step draws for its whole global batch and every rank keeps its rows: two ranks with batch B see what one rank with
batch 2B sees, and a resumed run needs no saved generator state. After :meth:`Noise.kept`, which draws for a rank's own
entries, the ranks' draws go ways of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STREAMS = {"order": 1, "train": 2, "valid": 3, "init": 4, "pairs": 5, "mask": 6, "donors": 7}
_MASK = (1 << 63) - 1


def mixed_seed(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed from the run's seed, the name of a stream and counters (splitmix64 steps)."""
    state = seed & ((1 << 64) - 1)
    for word in (_STREAMS[stream], *counters):
        state = (state + 0x9E3779B97F4A7C15 * (word + 1)) & ((1 << 64) - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
        state ^= state >> 31
    return state & _MASK


class Noise:
    """The random draws of one step.

    Parameters
    ----------
    seed
        From :func:`mixed_seed`.
    rows
        Rows of the global batch.
    start
        First of this rank's rows.
    device
        Where the numbers are drawn; CPU and CUDA generators give different numbers.
    """

    hides = True
    """Whether a model hides part of its input; validation does not."""

    def __init__(self, seed: int, rows: int, start: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.seed, self.rows, self.start = seed, rows, start

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape of this rank's rows of ``like``."""
        shape = (self.rows, *like.shape[1:])
        drawn = torch.randn(shape, generator=self.generator, device=like.device, dtype=like.dtype)
        return drawn[self.start : self.start + len(like)]

    def uniform(self, count: int, like: Tensor) -> Tensor:
        """``count`` numbers uniform in [0, 1), the same on every rank, in the type of ``like``."""
        return torch.rand(count, generator=self.generator, device=like.device, dtype=like.dtype)

    def dropout(self, x: Tensor, share: float) -> Tensor:
        """``x`` with a share of its entries set to zero and the rest scaled up.

        Sixteen random bits decide on an entry, a twentieth of the time of a Bernoulli draw on a CPU; ``share`` is
        thereby rounded to a multiple of 2^-16, and the scale is that of the rounded share.
        """
        dropped = round(share * 65536)
        if dropped <= 0:
            return x
        rows, width = self.rows, x[0].numel()
        words = torch.empty((rows * width + 3) // 4, dtype=torch.int64, device=x.device)
        words.random_(-(1 << 63), None, generator=self.generator)
        bits = words.view(torch.int16)[: rows * width].view(rows, *x.shape[1:])
        keep = bits[self.start : self.start + len(x)] >= dropped - 32768
        return x * keep.to(x.dtype).mul_(65536 / (65536 - dropped))

    def kept(self, row_m: Tensor, most: float) -> Tensor:
        """Which entries of a sparse batch stay when every row hides a share of its own, uniform in [0, ``most``).

        Parameters
        ----------
        row_m
            Row of each entry on this rank.
        most
            Largest share hidden.

        Returns
        -------
        Tensor
            bool, in the order of ``row_m``. Shares are of the global batch, draws each rank's own.
        """
        share_n = torch.rand(self.rows, generator=self.generator, device=row_m.device)[self.start :] * most
        drawn_m = torch.rand(len(row_m), generator=self.generator, device=row_m.device)
        return drawn_m >= share_n.index_select(0, row_m)

    def chosen(self, share: float, like: Tensor) -> Tensor:
        """Which rows of ``like`` are chosen, bool (n,), when each is with the same chance."""
        drawn_n = torch.rand(self.rows, generator=self.generator, device=like.device)
        return drawn_n[self.start : self.start + len(like)] < share

    def hashed(self, row_m: Tensor, item_m: Tensor, draw: int) -> Tensor:
        """Uniform numbers in [0, 1) that are a function of the step, the row, the item and the draw alone.

        Entries of a sparse row get the same numbers however rows are packed, split over ranks or ordered.

        Parameters
        ----------
        row_m, item_m
            int64: row of each entry on this rank, and what it is, such as its gene.
        draw
            Number of the draw.

        Returns
        -------
        Tensor
            float32 multiples of 2^-24 in the shape of ``row_m``.
        """
        state = (row_m + self.start) * _signed(0x9E3779B97F4A7C15) + _signed(mixed_seed(self.seed, "mask", draw))
        state = _scrambled(state) + item_m * _signed(0xD1342543DE82EF95)
        return ((_scrambled(state) >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def sample(self, total: int, share: float, device: torch.device) -> Tensor | None:
        """A uniform sample of ``range(total)``, int64 in rising order; None for all of it."""
        count = max(1, round(share * total))
        if count >= total:
            return None
        return torch.randperm(total, generator=self.generator, device=device)[:count].sort().values


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    return word - (1 << 64) if word >> 63 else word


def _scrambled(state: Tensor) -> Tensor:
    """The mixing steps of splitmix64 on int64, whose products wrap and whose shifts are made logical."""
    state = (state ^ ((state >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ ((state >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return state ^ ((state >> 31) & ((1 << 33) - 1))
