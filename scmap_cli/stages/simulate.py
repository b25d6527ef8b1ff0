"""``scmap simulate rna``: counts with a known truth, for trials, tests and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli import keys
from scmap_cli.data.simulation import PRESETS, TRUTH, check_rna_options, simulate_rna_data
from scmap_cli.errors import UsageError
from scmap_cli.io.atomic import check_outputs, write_text
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.programs import Programs, save_programs
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log


def simulate_rna(
    output: Path | str,
    *,
    preset: str = "default",
    n_cells: int | None = None,
    n_genes: int | None = None,
    n_programs: int | None = None,
    n_types: int | None = None,
    n_batches: int | None = None,
    genes_per_program: int | None = None,
    active_per_type: int | None = None,
    depth_mean: float | None = None,
    depth_sigma: float | None = None,
    batch_shift: float | None = None,
    dispersion: float | None = None,
    rare_type_share: float | None = None,
    stimulated: float | None = None,
    stim_programs: int | None = None,
    noise_genes: int | None = None,
    overlap: float | None = None,
    programs_output: Path | str | None = None,
    gmt_output: Path | str | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write simulated counts as h5ad; what was planted is in it.

    Parameters
    ----------
    output
        The h5ad, laid out as :func:`scmap_cli.data.simulation.simulate_rna_data` says.
    preset
        ``default`` (2,000 cells x 1,000 genes) or ``tiny`` (300 x 200); every other option that is given replaces the
        preset's value.
    n_cells, n_genes, n_programs, n_types, n_batches, genes_per_program, active_per_type, depth_mean, depth_sigma,
    batch_shift, dispersion, rare_type_share, stimulated, stim_programs, noise_genes, overlap
        See :func:`scmap_cli.data.simulation.simulate_rna_data`.
    programs_output
        Also write the planted programs as ``programs.npz``.
    gmt_output
        Also write the planted programs as GMT.
    seed
        Same options and seed, same bytes.
    force
        Replace existing outputs.
    dry_run
        Check and report, write nothing.

    Returns
    -------
    dict
        Sizes, parameters, and the number of stored counts.

    Raises
    ------
    UsageError
        An unknown preset, or numbers that cannot hold together.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}", f"known presets: {', '.join(PRESETS)}")
    given = {name: value for name, value in locals().items() if name in PRESETS[preset] and value is not None}
    parameters = PRESETS[preset] | given
    check_rna_options(parameters)
    check_outputs(output, programs_output, gmt_output, force=force)
    summary: dict[str, Any] = {"preset": preset, "seed": seed, "parameters": parameters}
    if dry_run:
        log.info("would simulate %(n_cells)d cells x %(n_genes)d genes", parameters)
        return summary
    with provenance.run("simulate rna", inputs=[], output=output, parameters=parameters, seed=seed) as run:
        adata = simulate_rna_data(**parameters, seed=seed)
        run.stamp(adata.uns)
        if programs_output is not None or gmt_output is not None:
            programs = _programs(adata)
            if programs_output is not None:
                save_programs(programs_output, programs, {"history": [run.record]}, force)
            if gmt_output is not None:
                write_text(gmt_output, _gmt_text(programs), force)
        write_h5ad(adata, output, force=force)
    truth = json.loads(adata.uns[TRUTH])
    summary |= {
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "stored_counts": int(adata.X.nnz),
        "median_depth": float(np.median(np.asarray(adata.X.sum(axis=1)))),
        "active_programs": truth["active_programs"],
        "stimulated_programs": truth["stimulated_programs"],
    }
    log.info("simulated %d cells x %d genes, %d stored counts", adata.n_obs, adata.n_vars, summary["stored_counts"])
    return summary


def _programs(adata: Any) -> Programs:
    mask = adata.varm[keys.PROGRAMS_VARM].tocsc()
    size = np.diff(mask.indptr).astype(np.int64)
    names = np.asarray(adata.uns[keys.PROGRAM_NAMES], dtype=str)
    return Programs(mask, np.asarray(adata.var_names, dtype=str), names, size, size)


def _gmt_text(programs: Programs) -> str:
    columns = np.split(programs.genes[programs.mask.indices], programs.mask.indptr[1:-1])
    rows = zip(programs.programs, columns, strict=True)
    return "".join("\t".join([name, "simulated", *genes]) + "\n" for name, genes in rows)
