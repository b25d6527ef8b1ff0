"""Every block of commands in README and guide runs as it is printed, on small files of the names that it asks for."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pysam
import pytest
from fragment_files import SIZES, as_text, fragments, write, write_bed, write_sizes

from scmap_cli.io.bundle import is_bundle
from scmap_cli.stages.simulate import simulate_rna
from scmap_cli.stages.simulate_atac import simulate_atac

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "examples/guide.md")]
SECTIONS = {part.partition("\n")[0]: part for text in TEXTS for part in text.split("\n## ")[1:]}

# What makes a command quick; whatever else is printed stays.
SHORT = {
    "preprocess rna all.h5ad": "--hvg 150",
    "preprocess programs reactome.gmt -o programs.npz": "--min-genes 5",
    "train expimap": "--epochs 2 --hidden 16 --batch-size 64",
    "train sailer": "--epochs 2 --hidden 16,6 --batch-size 64",
    "train sailerx": "--epochs 2 --hidden 8,4 --batch-size 64 --warmup-epochs 1 --cycles 1 --cycle-epochs 1",
    "train expresser": "--width 16 --layers 1 --epochs 1 --max-genes 64",
    "train markermap": "--epochs 2 --width 8",
    "map-query": "--epochs 2",
    "simulate atac": "--n-cells 200 --mu 300",
    "preprocess multiome": "--components 5",
    "preprocess motifs": "--p-value 0.001",
    "evaluate integration": "--components 5",
    "evaluate markers": "--splits 1 --k-grid 5,10",
    "select-markers all.h5ad -o markers.tsv": "--model-config short.toml",
    "select-markers all.h5ad -o table.tsv": "--splits 1 --k-grid 5,10",
}
CASES = "\n".join(f"    '{start} '*) set -- \"$@\" {more} ;;" for start, more in SHORT.items())
BEGIN = f"""set -euo pipefail
scmap() {{
  case "$*" in
    *' --compare '*) ;;
{CASES}
  esac
  command scmap "$@"
}}
"""


def blocks(section: str, language: str = "bash") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", re.sub(r"^  (?=\S|  )", "", section, flags=re.M), re.S | re.M)


def cells(folder: Path, name: str = "all.h5ad", **options: Any) -> anndata.AnnData:
    sizes = {"n_cells": 240, "n_genes": 300, "n_programs": 12, "genes_per_program": 20, "n_types": 3, "n_batches": 2}
    simulate_rna(folder / name, preset="tiny", gmt_output=folder / "reactome.gmt", **(sizes | options))
    return anndata.read_h5ad(folder / name)


def peaks(folder: Path, name: str = "atac.h5ad", **options: Any) -> anndata.AnnData:
    simulate_atac(folder / name, preset="tiny", **({"n_peaks": 600, "n_cells": 240} | options))
    return anndata.read_h5ad(folder / name)


def own_data(folder: Path, shell: Any) -> None:
    adata = cells(folder, depth_mean=4000.0)
    (folder / "all.h5ad").unlink()
    for number in (1, 2):
        one = adata[(adata.obs["batch"] == f"batch{number}").to_numpy()].copy()
        del one.obs["batch"]
        one.write_h5ad(folder / f"sample{number}.h5ad")


def from_fragments(folder: Path, shell: Any) -> None:
    rng = np.random.default_rng(0)
    sites = range(150_000, 2_750_000, 200_000)
    for name, seed in (("a", 0), ("b", 1)):
        rows = fragments(20_000, cells=12, seed=seed)
        # Far apart, so that no peak is open in all cells, and more at start sites, or no cell would pass --min-tss.
        rows["start"], rows["end"] = rows["start"] * 50, rows["end"] + rows["start"] * 49
        cuts = [f"chr1\t{site - 1 + i}\t{site + 60 + i}" for site in sites for i in range(12)]
        near = "".join(f"{place}\t{barcode}\t1\n" for barcode in rows["barcode"].unique() for place in cuts)
        write(folder / f"{name}.fragments.tsv.gz", as_text(rows) + near)
        start = np.sort(rng.choice(400, 60, replace=False)) * 7000
        lines = [f"chr1\t{s}\t{s + 300 + s % 90}\tp{s}\t5\t.\t{s % 9 + 1}\t3\t2\t50\n" for s in start]
        (folder / f"{name}_peaks.narrowPeak").write_text("".join(lines))
    write_bed(folder / "blacklist.bed", pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [40_000]}))
    gene = 'chr1\t.\tgene\t{}\t{}\t.\t+\t.\tgene_id "G{}"; gene_name "G{}";\n'
    (folder / "genes.gtf").write_text("".join(gene.format(s, s + 900, s, s) for s in sites))
    write_sizes(folder / "hg38.chrom.sizes")
    header = {"HD": {"VN": "1.6", "SO": "unsorted"}, "SQ": [{"SN": n, "LN": s} for n, s in SIZES.items()]}
    with pysam.AlignmentFile(str(folder / "reads.bam"), "wb", header=header) as file:
        for number in range(60):
            for place, other, flag, length in ((100, 200, 99, 120), (200, 100, 147, -120)):
                read = pysam.AlignedSegment(file.header)
                read.query_name, read.query_sequence, read.flag = f"r{number}", "A" * 20, flag
                read.reference_id = read.next_reference_id = 0
                read.reference_start, read.next_reference_start = place + number, other + number
                read.mapping_quality, read.cigarstring, read.template_length = 60, "20M", length
                read.set_tag("CB", f"CELL{number % 3}-1")
                file.write(read)
    (folder / "cells.txt").write_text("".join(f"CELL{i}-1\n" for i in range(3)))


def new_cells(folder: Path, shell: Any) -> None:
    adata = cells(folder, n_batches=3, stimulated=0.5)
    query = (adata.obs["batch"] == "batch3").to_numpy()
    new = adata[query].copy()
    new.obs["stim"] = np.where(new.obs["condition"] == "stim", "STIM", "CTRL")
    new.write_h5ad(folder / "query.h5ad")
    adata[~query].copy().write_h5ad(folder / "all.h5ad")
    shell.run("scmap", "preprocess", "programs", "reactome.gmt", "-o", "p.npz", "--genes", "all.h5ad", "--min-genes", 5)
    training = ("train", "expimap", "all.h5ad", "-o", "model", "--programs", "p.npz", "--batch-key", "batch")
    shell.run("scmap", *training, *SHORT["train expimap"].split())


def sailer(folder: Path, shell: Any) -> None:
    adata = peaks(folder)
    adata.obs["sample"] = adata.obs["batch"]
    adata.write_h5ad(folder / "atac.h5ad")


def sailerx(folder: Path, shell: Any) -> None:
    rna, atac = cells(folder, "rna.h5ad", n_cells=150), peaks(folder)
    first = (atac.obs["batch"] == "batch1").to_numpy()
    atac[~first].copy().write_h5ad(folder / "old.h5ad")
    paired = atac[first][:100].copy()
    paired.write_h5ad(folder / "atac.h5ad")
    rna = rna[:100].copy()
    rna.obs_names = paired.obs_names
    rna.obs = rna.obs[[]]
    rna.write_h5ad(folder / "rna.h5ad")


def expresser(folder: Path, shell: Any) -> None:
    adata = cells(folder, n_batches=3)
    (folder / "studies").mkdir()
    for number, name in enumerate(("first", "second", "held_out"), 1):
        part = adata[(adata.obs["batch"] == f"batch{number}").to_numpy()].copy()
        part.write_h5ad(folder / "studies" / f"{name}.h5ad")
    part.write_h5ad(folder / "held_out.h5ad")
    names = adata.var_names
    lines = "".join(f"ENSG{i:011d}\t{name}\tprotein_coding\n" for i, name in enumerate(names))
    (folder / "genes.tsv").write_text("gene_id\tgene_name\tgene_type\n" + lines)
    vectors = np.random.default_rng(0).normal(size=(len(names), 8)).round(3)
    table = "".join(f"{name} {' '.join(map(str, row))}\n" for name, row in zip(names, vectors, strict=True))
    (folder / "gene2vec.txt").write_text(table)
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in zip(names[::2], names[1::2], strict=True)))


def simulations(folder: Path, shell: Any) -> None:
    rng = np.random.default_rng(0)
    names = [f"chr{1 + i % 3}:{1000 * i}-{1000 * i + 500}" for i in range(500)]
    bulk = pd.DataFrame(rng.lognormal(0, 1, (500, 6)), index=names, columns=[f"T{i}" for i in range(6)])
    bulk.to_csv(folder / "bulk.tsv.gz", sep="\t", index_label="peak")
    genes = "".join(
        f'chr1\t.\tgene\t{s}\t{s + 2000}\t.\t+\t.\tgene_id "G{s}"; gene_name "{name}";\n'
        for s, name in ((20_000, "CD14"), (90_000, "MS4A1"))
    )
    (folder / "genes.gtf.gz").write_bytes(gzip.compress(genes.encode(), mtime=0))
    peaks(folder)


def motifs(folder: Path, shell: Any) -> None:
    adata = peaks(folder)
    adata.obs["cluster"] = np.where(adata.obs["cell_type"] == "type1", "Pvalb", "Sst")
    adata.write_h5ad(folder / "atac.h5ad")
    rng = np.random.default_rng(0)
    with (folder / "mm10.fa").open("wb") as handle:
        for name, end in adata.var.groupby("chrom", observed=True)["end"].max().items():
            bases = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(4, size=end, dtype=np.uint8)]
            handle.write(f">{name}\n".encode() + bases.tobytes() + b"\n")
    text = "".join(f">M{i}.1 TF{i}\n9 0 0 0 9 {i}\n0 9 0 9 0 0\n0 0 9 0 0 9\n1 1 1 1 1 1\n" for i in range(3))
    (folder / "JASPAR2024_CORE.txt").write_text(text)


def judged(folder: Path, shell: Any) -> None:
    new_cells(folder, shell)
    shell.run("scmap", "embed", "model", "all.h5ad", "-o", "embedded.h5ad")
    adata = anndata.read_h5ad(folder / "embedded.h5ad")
    adata.obsm["X_umap"] = adata.obsm["X_expimap"][:, :2]
    adata.write_h5ad(folder / "embedded.h5ad")
    keys = ("--batch-key", "batch", "--label-key", "cell_type", "--components", 5)
    shell.run("scmap", "evaluate", "integration", "embedded.h5ad", "-o", "other.json", *keys)


def marked(folder: Path, shell: Any) -> None:
    adata = cells(folder)
    adata.write_h5ad(folder / "new.h5ad")
    adata.write_h5ad(folder / "markers_only.h5ad")
    (folder / "short.toml").write_text("[train]\nepochs = 2\n[model]\nwidth = 8\n")


PREPARED: dict[str, Callable[[Path, Any], None]] = {
    "On your own data": own_data,
    "Chromatin: from fragments to a matrix": from_fragments,
    "New cells, new programs, differences": new_cells,
    "Chromatin: embedding and imputation (SAILER)": sailer,
    "RNA and ATAC of the same cells (SAILERX)": sailerx,
    "Many studies: gene embeddings and imputation (Expresser)": expresser,
    "scATAC: simulations, baselines, scores": simulations,
    "Motifs in open chromatin": motifs,
    "See and judge": judged,
    "Marker genes": marked,
}


def test_every_block_is_run_below():
    assert [title for title, text in SECTIONS.items() if blocks(text)] == list(PREPARED)


@pytest.mark.parametrize("title", list(PREPARED))
def test_the_commands_of_a_section_run_as_printed(shell, title):
    PREPARED[title](shell.folder, shell)
    (block,) = blocks(SECTIONS[title])
    if title == "scATAC: simulations, baselines, scores":
        # Between its commands lies a model; what one would make of the first one's file is that file here.
        first, block = block.split("\n", 1)
        block = f"{first}\ncp sim1.h5ad imputed.h5ad\n{block}"
    shell.run("bash", "-c", BEGIN + block)
    for name in re.findall(r"(?:-o|--plot|--model-out|--join|--fragments|--\w+-output) ([\w.-]+)", block):
        if name != "-":
            path = shell.folder / name
            assert is_bundle(path) if not path.suffix else path.exists(), name
    for code in blocks(SECTIONS[title], "python"):
        shell.run("python", "-W", "ignore", "-c", code + "\nassert len(table) and table['avg_diff'].notna().all()")
