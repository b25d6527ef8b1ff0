"""Batched inference, and models rebuilt from their directory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scmap_cli.config import build
from scmap_cli.data.batches import Store
from scmap_cli.errors import InputError
from scmap_cli.models.base import ScmapModel
from scmap_cli.runtime.logs import progress


def restore_model(
    kind: type[ScmapModel], config: dict[str, Any], tensors: dict[str, np.ndarray], device: torch.device
) -> ScmapModel:
    """A model of class ``kind`` from the parts of its directory, on ``device``.

    Raises
    ------
    InputError
        The tensors do not fit the config.
    """
    settings: Any = build(kind.config_type, config["model_config"], where="config.json")
    model = kind(settings, **config["structure"])
    tensors = kind.upgraded(tensors, config["schema_version"])
    try:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise InputError(
            f"the tensors do not fit config.json: {lines[-1].strip()}", "copy the directory anew"
        ) from None
    model.loaded()
    return model.to(device)


def embed_cells(model: ScmapModel, store: Store, batch_size: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and variances of all cells of a store, both float32 (n, z), in the order of the file.

    Of a model that gives points the variances are (n, 0).

    A batch is inference without noise, so a cell's posterior does not depend on its neighbours in the file.
    """
    means, variances = [], []
    batch_size = min(batch_size, model.most_cells)
    with progress("embedding cells", store.n) as bar:
        for start in range(0, store.n, batch_size):
            rows = torch.arange(start, min(start + batch_size, store.n))
            posterior = model.embed(store.batch(rows))
            means.append(posterior.mean_nz.to(torch.float32).cpu().numpy())
            variances.append(posterior.var_nz.to(torch.float32).cpu().numpy())
            bar.advance(len(rows))
    return np.concatenate(means), np.concatenate(variances)
