r"""Adam with one second moment a row for tall layers, as Adam-mini has one a block of weights.

Zhang et al. 2024, arXiv:2406.16793. For row p of a layer with h columns, gradient :math:`g_p` and step t

.. math::

    m_p \leftarrow \beta_1 m_p + (1-\beta_1)\,g_p, \qquad
    v_p \leftarrow \beta_2 v_p + (1-\beta_2)\,\tfrac1h\lVert g_p\rVert^2, \qquad
    w_p \leftarrow w_p - \eta\,\frac{m_p/(1-\beta_1^t)}{\sqrt{v_p/(1-\beta_2^t)}+\epsilon}.

A layer with a row a peak has most of a network's weights, and the second moments of a row's weights are much alike, as
they see the same cells. So a third of what training holds of the layer is not there, nor read and written every step.
A step passes over a few rows at a time, which stay in the cache, and a sparse gradient is never made dense as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scmap_cli.config import PretrainConfig
from scmap_cli.models.base import ScmapModel

# Weights of the rows that a step treats at a time on a CPU, 1 MB.
_BLOCK = 1 << 18


def make_optimizer(model: ScmapModel, config: PretrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW for what a model trains; Adam keeps second moments of ``model.tall`` by row."""
    numbers: dict[str, Any] = {"lr": config.lr, "eps": config.adam_eps, "weight_decay": config.weight_decay}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if config.optimizer == "adamw" or not model.tall:
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        return kind(trained.values(), **numbers, fused=True)
    tall, others = ([p for name, p in trained.items() if (name in model.tall) is wanted] for wanted in (True, False))
    return RowAdam([{"params": others}, {"params": tall, "rows": True}], **numbers, fused=True)


class RowAdam(torch.optim.Adam):
    """Adam whose parameter groups with ``rows`` set have a second moment a row; a step uses up their gradients.

    Gradients of these may be sparse, with values of whole rows. Moments are there from the start: made in the first
    step, they would take the place that a gradient leaves, and the next gradient another.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        for weight_ph in (p for group in self.param_groups if group.get("rows") for p in group["params"]):
            self.state[weight_ph] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(weight_ph, requires_grad=False),
                "exp_avg_sq": weight_ph.new_zeros(len(weight_ph), 1),
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters."""
        for group in self.param_groups:
            for weight_ph in group["params"] if group.get("rows") else ():
                if weight_ph.grad is not None:
                    self._step_rows(weight_ph, group)
                    # The step of the base class passes over parameters without a gradient.
                    weight_ph.grad = None
        return super().step(closure)

    def _step_rows(self, weight_ph: Tensor, group: dict[str, Any]) -> None:
        state, (decay, decay_square) = self.state[weight_ph], group["betas"]
        state["step"] += 1
        step = float(state["step"])
        pace = group["lr"] / (1.0 - decay**step)
        p, h = weight_ph.shape
        size = max(1, _BLOCK // h) if weight_ph.device.type == "cpu" else p
        gradient = _rows(weight_ph.grad)
        for first in range(0, p, size):
            some = slice(first, min(first + size, p))
            w_rh, mean_rh, square_r1 = weight_ph[some], state["exp_avg"][some], state["exp_avg_sq"][some]
            grad_rh = gradient(some.start, some.stop)
            if group["weight_decay"]:
                grad_rh = grad_rh.add(w_rh, alpha=group["weight_decay"])
            mean_rh.lerp_(grad_rh, 1.0 - decay)
            square_r1.lerp_(torch.linalg.vector_norm(grad_rh, dim=1, keepdim=True).square_().div_(h), 1 - decay_square)
            scale_r1 = square_r1.div(1.0 - decay_square**step).sqrt_().add_(group["eps"]).reciprocal_().mul_(pace)
            w_rh.addcmul_(mean_rh, scale_r1, value=-1.0)


def _rows(grad_ph: Any) -> Callable[[int, int], Tensor]:
    """Gives the rows of a gradient from one number up to another."""
    if not grad_ph.is_sparse:
        return lambda first, last: grad_ph[first:last]
    grad_ph = grad_ph.coalesce()
    row_s, value_sh = grad_ph.indices()[0], grad_ph.values()

    def some(first: int, last: int) -> Tensor:
        rows_rh = value_sh.new_zeros(last - first, value_sh.shape[1])
        a, b = torch.searchsorted(row_s, torch.tensor([first, last], device=row_s.device)).tolist()
        return rows_rh.index_copy_(0, row_s[a:b] - first, value_sh[a:b])

    return some
