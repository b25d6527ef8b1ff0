"""How imputed values leave ``scmap impute``: a block of cells at a time, whatever the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from scmap_cli.io.h5ad import write_h5ad_rows
from scmap_cli.io.npz import write_npz_rows
from scmap_cli.keys import HISTORY, WITHHELD_RECORD
from scmap_cli.runtime import provenance
from scmap_cli.stages.inputs import RnaInput


def write_imputed(
    output: Path,
    data: RnaInput,
    features: np.ndarray,
    blocks: Iterable[Any],
    run: provenance.Run,
    header: Mapping[str, Any],
    force: bool,
) -> None:
    """Write imputed values with the names, and in an h5ad the ``obs``, of the cells that they are of.

    Parameters
    ----------
    output
        ``.h5ad`` or ``.npz``.
    data
        The input; what its ``uns`` says of its history and of withheld entries goes on into an h5ad.
    features
        (f,) names of the columns.
    blocks
        Dense (rows, f) arrays or CSR matrices, all of one kind, that follow one another from the first cell on.
    run
        Recorded in the file.
    header
        More words for the header of an npz.
    force
        Replace an existing file.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`scmap_cli.io.atomic.atomic_file`.
    """
    shape = (len(data.cells), len(features))
    if output.suffix == ".npz":
        names = {"cells": data.cells, "features": features}
        write_npz_rows(output, blocks, shape, names, {"kind": "imputed", **header, "history": [run.record]}, force)
        return
    frame = AnnData(obs=data.adata.obs.copy(), var=data.adata.var.reindex(features))
    frame.uns = {key: value for key, value in data.adata.uns.items() if key in (HISTORY, WITHHELD_RECORD)}
    run.stamp(frame.uns)
    write_h5ad_rows(frame, blocks, shape, output, force=force)
