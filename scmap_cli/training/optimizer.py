r"""Adam with one second moment a row for tall layers, as Adam-mini has one a block of weights.

Zhang et al. 2024, arXiv:2406.16793. For row p of a layer with h columns, gradient :math:`g_p` and step t

.. math::

    m_p \leftarrow \beta_1 m_p + (1-\beta_1)\,g_p, \qquad
    v_p \leftarrow \beta_2 v_p + (1-\beta_2)\,\tfrac1h\lVert g_p\rVert^2, \qquad
    w_p \leftarrow w_p - \eta\,\frac{m_p/(1-\beta_1^t)}{\sqrt{v_p/(1-\beta_2^t)}+\epsilon}.

A layer with a row a peak has most of a network's weights, and the second moments of a row's weights are much alike, as
they see the same cells. So a third of what training holds of the layer is not there, nor read and written every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scmap_cli.config import PretrainConfig
from scmap_cli.models.base import ScmapModel


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
        state, (keep, keep_square) = self.state[weight_ph], group["betas"]
        state["step"] += 1
        step = float(state["step"])
        mean_ph, square_p1, l2 = state["exp_avg"], state["exp_avg_sq"], group["weight_decay"]
        pace, correction = group["lr"] / (1.0 - keep**step), 1.0 / (1.0 - keep_square**step)
        grad_sh, row_s = _stored(weight_ph.grad)
        if weight_ph.device.type == "cpu" and weight_ph.dtype == torch.float32:
            # numba takes half a second to import, which only CPU training has to wait for
            from scmap_cli.training.optimizer_kernel import step_rows

            numbers = [keep, keep_square, pace, correction, group["eps"], l2]
            step_rows(weight_ph, mean_ph, square_p1, grad_sh, row_s, numbers)
            return
        if row_s is not None:
            grad_sh = torch.zeros_like(weight_ph).index_copy_(0, row_s, grad_sh)
        if l2:
            grad_sh = grad_sh.add(weight_ph, alpha=l2)
        mean_ph.lerp_(grad_sh, 1.0 - keep)
        square_p1.lerp_(
            torch.linalg.vector_norm(grad_sh, dim=1, keepdim=True).square_() / grad_sh.shape[1], 1.0 - keep_square
        )
        weight_ph.addcmul_(mean_ph, pace / ((square_p1 * correction).sqrt_() + group["eps"]), value=-1.0)


def _stored(grad: Any) -> tuple[Tensor, Tensor | None]:
    """Rows of a gradient that are stored, and which they are; None for all."""
    if not grad.is_sparse:
        return grad, None
    grad = grad.coalesce()
    return grad.values(), grad.indices()[0]
