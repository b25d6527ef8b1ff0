"""``scmap impute``: what a model makes of every cell: denoised accessibility, or all genes from the markers alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.data.confounders import usual
from scmap_cli.data.matrices import binarised, column_means, log1p_cp10k
from scmap_cli.errors import UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.io.bundle import Bundle, load_bundle
from scmap_cli.metrics.imputation import above_cell_mean
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log, progress
from scmap_cli.stages.impute_values import impute_values
from scmap_cli.stages.imputed import Sample, write_imputed
from scmap_cli.stages.inputs import aligned_counts, estimated_sizes, named_columns, plain_records
from scmap_cli.stages.multiome import check_reference_options, encoder_reference
from scmap_cli.stages.views import check_ending
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.infer import restore_model


def impute(
    model_dir: Path,
    input: Path,
    output: Path,
    *,
    features: Path | None = None,
    entries_layer: str | None = None,
    binarize: str = "none",
    batch: str | None = None,
    layer: str | None = None,
    batch_size: int = 512,
    min_overlap: float = 0.5,
    reference_key: str | None = None,
    ignore_rna: bool = False,
    plot: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Decode the posterior mean of cells with a trained model.

    SAILER and SAILERX (thesis, section 2.2.4) decode with the depth of an average cell (z-score 0) and one batch for
    all; unlike in their embedding, cells without RNA do not borrow from donors. MarkerMap rebuilds log1p CP10k of all
    genes from its markers; the input need hold no others. For Expresser see
    :func:`scmap_cli.stages.impute_values.impute_values`. Output is written a block of cells at a time; no more than a
    block is held in memory.

    Parameters
    ----------
    model_dir
        Directory written by ``scmap train sailer``, ``sailerx``, ``markermap`` or ``expresser``.
    input
        Counts; peaks or genes are matched by name.
    output
        ``.h5ad``: cells x peaks or genes in ``X`` with the input's ``obs``. ``.npz``: the matrix with names.
    features
        Text file of the peaks or genes wanted, one a line; all by default.
    entries_layer
        Of an Expresser: layer of the input that marks the entries wanted.
    binarize
        ``none``: probabilities, float32. A number in (0, 1): 1 where the probability is above it. ``scale``: 1 where it
        is above both the share of cells in which the peak is open and the share of the model's peaks open in the cell,
        where peaks that the input lacks are closed (the rule of SCALE). ``cell``: 1 where it is above the cell's mean
        probability of all peaks of the model, which leaves depth out and keeps peaks that are open in all cells.
    batch
        SAILER and SAILERX: the batch that all cells are decoded as; by default the one of highest geometric mean depth
        in training.
    plot
        Draw values before and after, of cells drawn by ``seed`` in their most variable peaks or genes.
    layer, batch_size, min_overlap, reference_key, ignore_rna, seed, device, force, dry_run
        As :func:`scmap_cli.stages.embed.embed`.

    Returns
    -------
    dict
        Cells, peaks or genes, batch, overlap of names.

    Raises
    ------
    UsageError, InputError, DeviceError, WriteError
        With exit codes 2, 3, 5 and 6.
    """
    model_dir, input, output = Path(model_dir), Path(input), Path(output)
    check_ending(output)
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1")
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"--min-overlap {min_overlap} is not in [0, 1]")
    _check_rule(binarize)
    check_outputs(output, figures=[plot], force=force)
    where = resolve_device(device)
    parameters = {
        "features": features,
        "entries_layer": entries_layer,
        "binarize": binarize,
        "batch": batch,
        "layer": layer,
        "batch_size": batch_size,
        "reference_key": reference_key,
        "ignore_rna": ignore_rna,
    }
    with (
        provenance.run(
            "impute",
            inputs=[model_dir, input, *([features] if features else [])],
            output=None if dry_run else output,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        bundle = load_bundle(model_dir)
        check_reference_options(bundle, reference_key, ignore_rna)
        if bundle.config["model"] == "expresser":
            if binarize != "none" or batch is not None:
                raise UsageError("--binarize and --batch are for peaks; this model imputes expression")
            return impute_values(
                bundle, input, output, run, features=features, entries_layer=entries_layer, layer=layer,
                batch_size=batch_size, min_overlap=min_overlap, where=where, plot=plot, seed=seed, force=force,
                dry_run=dry_run,
            )  # fmt: skip
        if entries_layer is not None:
            raise UsageError("--entries-layer is for models of type expresser")
        if "impute" not in bundle.config["capabilities"]:
            raise UsageError(f"{model_dir} holds a model of type {bundle.config['model']}, which does not impute")
        kind = get_model(bundle.config["model"]).load()
        word = kind.features
        if word == "genes":
            _check_rebuilds(bundle, binarize, batch, model_dir)
        code, name = _batch(bundle, batch) if word == "peaks" else (0, None)
        columns = named_columns(bundle.features, features, word)
        data, counts, report = aligned_counts(bundle, input, layer=layer, min_overlap=min_overlap)
        reference = encoder_reference(bundle, data.adata, input, reference_key, ignore_rna)
        summary = {"cells": counts.shape[0], word: len(columns), "batch": name, "overlap": report}
        if dry_run:
            return summary
        model: Any = restore_model(kind, bundle.config, bundle.tensors, where)
        codes = np.full(counts.shape[0], code)
        if word == "peaks":
            counts = binarised(counts)
            told = np.tile(usual(bundle.config["covariates"]), (counts.shape[0], 1))
            store = CsrStore(counts, codes, covariates=told, reference=reference).to(where)
        else:
            store = CsrStore(counts, codes, size_n=estimated_sizes(counts, report)).to(where)
        if binarize == "scale":
            peak_share = column_means(counts)[columns]
            cell_share = np.diff(counts.indptr) / counts.shape[1]

        def blocks() -> Iterator[Any]:
            # The cell's mean is over all peaks, whichever are written.
            decoded = np.arange(len(bundle.features)) if binarize == "cell" else columns
            wanted = torch.from_numpy(decoded).to(where)
            with progress("imputing cells", store.n) as bar:
                for start in range(0, store.n, batch_size):
                    rows = torch.arange(start, min(start + batch_size, store.n))
                    share_np = model.impute(store.batch(rows), wanted).float().cpu().numpy()
                    bar.advance(len(rows))
                    if binarize == "none":
                        yield share_np
                    elif binarize == "cell":
                        yield sparse.csr_matrix(above_cell_mean(share_np)[:, columns], dtype=np.uint8)
                    elif binarize == "scale":
                        cut_np = np.maximum(peak_share, cell_share[rows.numpy(), None])
                        yield sparse.csr_matrix(share_np > cut_np, dtype=np.uint8)
                    else:
                        yield sparse.csr_matrix(share_np > float(binarize), dtype=np.uint8)

        header = {"binarize": binarize, "batch": name}
        names, sample = bundle.features[columns], Sample(store.n, seed)
        values = blocks()
        if plot is not None:
            shown = counts[sample.rows]
            if word == "genes":
                shown = log1p_cp10k(shown, totals=estimated_sizes(shown, report))
            values = sample.watch(values, shown[:, columns])
        write_imputed(output, data, names, values, run, header, force)
        if plot is not None:
            sample.draw(plot, force, names, word, *_unit(word, binarize))
        as_batch = "" if name is None else f" as batch {name}"
        log.info("wrote %s: %d cells x %d %s%s", output, store.n, len(columns), word, as_batch)
    return summary


def _unit(word: str, binarize: str) -> tuple[str, str]:
    """What values are before and after."""
    if word == "genes":
        return "log1p CP10k of the input", "log1p CP10k, rebuilt from the markers"
    rule = {
        "none": "probability of being open",
        "cell": "open with a probability above the cell's mean",
        "scale": "open by the rule of SCALE",
    }
    return "open in the input", rule.get(binarize, f"open with a probability above {binarize}")


def _check_rule(binarize: str) -> None:
    try:
        known = binarize in ("none", "cell", "scale") or 0 < float(binarize) < 1
    except ValueError:
        known = False
    if not known:
        raise UsageError(f"--binarize is {binarize!r}", "choose none, cell, scale or a number between 0 and 1")


def _check_rebuilds(bundle: Bundle, binarize: str, batch: str | None, path: Path) -> None:
    """Refuse a model without a decoder, and options that say nothing for one of genes."""
    if bundle.config["model_config"]["mode"] == "supervised":
        raise UsageError(f"{path} holds a supervised model, which has no decoder", "train it with --mode joint")
    if binarize != "none" or batch is not None:
        raise UsageError("--binarize and --batch are for models of open peaks", "leave them out")


def _batch(bundle: Bundle, batch: str | None) -> tuple[int, str]:
    known = bundle.categories["condition"]
    depth = bundle.config["condition_depth"]
    name = max(known, key=lambda c: depth[c]) if batch is None else batch
    if name not in known:
        raise UsageError(f"the model knows no batch {name!r}", f"it knows {', '.join(map(repr, known[:8]))}")
    return known.index(name), name
