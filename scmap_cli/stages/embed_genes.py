"""``scmap embed --genes``: the gene embeddings of a trained Expresser, static or in the context of cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import atomic_file, check_output
from scmap_cli.io.bundle import load_bundle
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import write_npz
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log, progress
from scmap_cli.stages.inputs import aligned_counts, plain_records
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.infer import restore_model

FORMS = (".npz", ".tsv", ".h5ad")


def embed_genes(
    model_dir: Path,
    output: Path,
    *,
    input: Path | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    min_overlap: float = 0.5,
    batch_size: int = 2048,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write one vector a gene.

    Parameters
    ----------
    model_dir
        Directory written by ``scmap train expresser``.
    output
        ``.npz`` (arrays ``embedding`` and ``genes``), ``.tsv`` (gene, then numbers) or
        ``.h5ad`` (genes x dimensions).
    input
        Without it the static table T_g of equation 4.1. With counts, the mean of a gene's vectors after the encoder
        over the cells that express it; genes that none expresses are left out.
    layer, gene_column, min_overlap, batch_size, seed, device, force, dry_run
        As :func:`scmap_cli.stages.embed.embed`.

    Returns
    -------
    dict
        Genes and dimensions.

    Raises
    ------
    UsageError, InputError, DeviceError, WriteError
        With exit codes 2, 3, 5 and 6.
    """
    model_dir, output = Path(model_dir), Path(output)
    if output.suffix not in FORMS:
        raise UsageError(f"the output {output.name} ends in none of {', '.join(FORMS)}", "choose one of them")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1")
    check_output(output, force)
    where = resolve_device(device)
    parameters = {"genes": True, "layer": layer, "gene_column": gene_column, "batch_size": batch_size}
    inputs = [model_dir, *([input] if input is not None else [])]
    with (
        provenance.run(
            "embed",
            inputs=inputs,
            output=None if dry_run else output,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        bundle = load_bundle(model_dir)
        if "gene-embedding" not in bundle.config["capabilities"]:
            raise UsageError(f"{model_dir} holds a model of type {bundle.config['model']}, which embeds no genes")
        model: Any = restore_model(get_model(bundle.config["model"]).load(), bundle.config, bundle.tensors, where)
        if input is None:
            genes = bundle.features
        else:
            _, counts, _ = aligned_counts(bundle, input, layer=layer, gene_column=gene_column, min_overlap=min_overlap)
            found_g = np.bincount(counts.indices, minlength=counts.shape[1]) > 0
            if not found_g.any():
                raise InputError(f"no cell of {input} expresses a gene of the model")
            genes = bundle.features[found_g]
        summary = {"genes": len(genes), "dimensions": model.config.width, "contextual": input is not None}
        if dry_run:
            return summary
        table_gd = model.gene_embedding() if input is None else _in_context(model, counts, batch_size, where)[found_g]
        _write(output, genes, table_gd, summary, run, force)
        log.info("wrote %s: %d genes x %d dimensions", output, *table_gd.shape)
    return summary


def _in_context(model: Any, counts: sparse.csr_matrix, batch_size: int, where: torch.device) -> np.ndarray:
    """(g, d) mean vector after the encoder of every gene over the cells that express it; zero where none does."""
    store = model.make_store(counts, np.zeros(counts.shape[0], dtype=np.int64)).to(where)
    sum_gd = torch.zeros(counts.shape[1], model.config.width, dtype=torch.float64, device=where)
    count_g = torch.zeros(counts.shape[1], dtype=torch.float64, device=where)
    size = min(batch_size, model.most_cells)
    with torch.no_grad(), progress("embedding cells", store.n) as bar:
        for start in range(0, store.n, size):
            batch = store.batch(torch.arange(start, min(start + size, store.n)))
            sum_gd.index_add_(0, batch.gene_t, model.encode(batch).double())
            count_g.index_add_(0, batch.gene_t, torch.ones_like(batch.gene_t, dtype=torch.float64))
            bar.advance(batch.n)
    mean_gd: np.ndarray = (sum_gd / count_g.clamp_min(1)[:, None]).float().cpu().numpy()
    return mean_gd


def _write(
    output: Path, genes: np.ndarray, table_gd: np.ndarray, summary: dict[str, Any], run: provenance.Run, force: bool
) -> None:
    table_gd = table_gd.astype(np.float32)
    names = [f"d{i + 1}" for i in range(table_gd.shape[1])]
    if output.suffix == ".npz":
        header = {"kind": "gene-embedding", "contextual": summary["contextual"], "history": [run.record]}
        write_npz(output, {"embedding": table_gd, "genes": genes}, header, force)
    elif output.suffix == ".tsv":
        with atomic_file(output, force) as tmp:
            frame = pd.DataFrame(table_gd, index=pd.Index(genes, name="gene"), columns=names)
            frame.to_csv(tmp, sep="\t", float_format="%.7g")
    else:
        index = pd.Index(genes.astype(object))
        frame = AnnData(table_gd, obs=pd.DataFrame(index=index), var=pd.DataFrame(index=pd.Index(names, dtype=object)))
        run.stamp(frame.uns)
        write_h5ad(frame, output, force=force)
