"""The first layer of an encoder: stored values times the rows of a tall matrix, which most of a cell never touches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scmap_cli.data.batches import Batch

# Share of stored entries up to which adding their rows beats a dense product on a CPU.
_SPARSE = 0.12


class _SumOfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_gh: Tensor, value_m: Tensor, flat_m: Tensor, n: int) -> Tensor:
        # numba takes half a second to import, which only CPU training has to wait for
        from scmap_cli.nn.sparse_kernels import StoredRows

        ctx.rows = StoredRows(flat_m, value_m, n, len(weight_gh))
        return ctx.rows.times(weight_gh)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight_grad = ctx.rows.transposed_times(grads[0]) if ctx.needs_input_grad[0] else None
        return weight_grad, None, None, None


def sum_of_rows(
    batch: Batch, value_m: Tensor, weight_gh: Tensor, group_g: Tensor | None = None, groups: int = 1
) -> Tensor:
    """``x @ weight`` for the matrix ``x`` with ``value_m`` at the stored positions of a batch and 0 elsewhere.

    Parameters
    ----------
    batch
        Where values are stored, in rising order within a cell.
    value_m
        The values, without gradient, in the order of ``batch.flat_m``.
    weight_gh
        (features, h); differentiable.
    group_g
        Group of each feature, int64, never falling; None for no groups.
    groups
        Number of groups.

    Returns
    -------
    Tensor
        (n, h); with groups the sums of each, (n, groups, h).
    """
    flat_m, rows = batch.flat_m, batch.n
    if group_g is not None:
        cell_m, feature_m = torch.div(flat_m, batch.g, rounding_mode="floor"), flat_m % batch.g
        flat_m, rows = (cell_m * groups + group_g[feature_m]) * batch.g + feature_m, rows * groups
    filled = len(flat_m) / max(1, batch.n * batch.g)
    single = weight_gh.device.type == "cpu" and weight_gh.dtype == torch.float32
    if single and filled <= _SPARSE and not torch.is_autocast_enabled("cpu"):
        sums: Tensor = _SumOfRows.apply(weight_gh, value_m, flat_m, rows)
    elif group_g is None:
        return batch.dense(value_m) @ weight_gh
    else:
        starts = torch.arange(rows, device=flat_m.device) * batch.g
        bags = torch.searchsorted(flat_m, starts)
        weights_m = value_m.to(weight_gh.dtype)
        sums = torch.nn.functional.embedding_bag(
            flat_m % batch.g, weight_gh, bags, mode="sum", per_sample_weights=weights_m
        )
    return sums if group_g is None else sums.view(batch.n, groups, -1)
