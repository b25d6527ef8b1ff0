"""Architecture surgery: a trained expiMap made ready for a query (Methods, "Reference mapping").

What trains is a new row in each table of conditions (encoder, decoder shift, dispersion), and head and decoder columns
of added programs. Everything else is frozen to the bit: it takes no gradient, and the old rows of the tables are put
back after every step, whatever the optimiser does. The released code trains the whole tables, and its default weight
decay lets the old rows drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig, block_sizes


def extend(
    reference: ExpiMap,
    config: ExpiMapConfig,
    n_new: int,
    seed: int,
    mask_gk: sparse.sparray | sparse.spmatrix | None = None,
) -> ExpiMap:
    """A copy of a model with room for a query, all else frozen.

    Parameters
    ----------
    reference
        The trained model; not changed.
    config
        Settings of the query's training; ``unconstrained`` and ``membership`` are those of the added programs.
    n_new
        Conditions to add, 0 if the query has known ones only. Each starts as the mean of the known ones.
    seed
        Seed of the added programs' weights; the global generator is left as it was.
    mask_gk
        Membership of the model's genes in added programs, genes x programs.

    Returns
    -------
    ExpiMap
        On the CPU. Its latent dimensions are those of the reference and then the added ones; added programs with a
        gene list come before added unconstrained ones.
    """
    old = reference.structure
    blocks: list[dict[str, Any]] = list(old["blocks"])
    mask: Any = sparse.csc_matrix((old["n_genes"], 0), dtype=np.uint8) if mask_gk is None else mask_gk
    block, _ = block_sizes(mask, config.unconstrained, config.membership == "soft")
    adds = block["n_programs"] + block["n_free"] > 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251
        model = ExpiMap(
            config,
            n_genes=old["n_genes"],
            n_conditions=old["n_conditions"] + n_new,
            blocks=[*blocks, block] if adds else blocks,
        )
    if adds:
        model.programs(len(blocks)).set_members(mask)
    known = {name: tensor.detach().cpu() for name, tensor in reference.state_dict().items()}
    grown = {name: torch.cat([known[name], known[name].mean(0).expand(n_new, -1)]) for name in model.tables()}
    model.load_state_dict(model.state_dict() | known | grown)
    model.loaded()
    model.first_trained = len(blocks)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in grown or name.startswith(f"blocks.{len(blocks)}."))
    for name in grown:
        model.held[name] = known[name].clone()
        model.get_parameter(name).register_hook(_without_rows(len(known[name])))
    return model


def trained_parameters(model: ExpiMap) -> int:
    """How many numbers the training of an extended model changes."""
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total - sum(held.numel() for held in model.held.values())


def _without_rows(count: int) -> Callable[[Tensor], Tensor]:
    """A gradient hook that leaves nothing for the first ``count`` rows."""

    def hook(grad: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(grad[:count]), grad[count:]])

    return hook
