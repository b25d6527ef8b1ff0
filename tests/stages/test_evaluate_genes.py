"""``evaluate genes``: tables of every form, like against like, each task, and misfits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.gene_data import read_embedding, read_links, read_lists, read_pairs, read_scores
from scmap_cli.io.npz import write_npz
from scmap_cli.stages.evaluate_genes import evaluate_genes

N = 120
GENES = np.array([f"G{i}" for i in range(N)])
TABLE = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_npz(tmp_path / "t.npz", {"embedding": TABLE, "genes": GENES}, {"kind": "gene-embedding"})
    return tmp_path / "t.npz"


def by(result, **wanted):
    return {
        entry["embedding"]: entry
        for entry in result["results"]
        if all(entry.get(key) == value for key, value in wanted.items())
    }


def test_every_form_of_table_is_read_alike(tmp_path, table):
    frame = pd.DataFrame(TABLE, index=GENES)
    frame.to_csv(tmp_path / "t.tsv", sep="\t", index_label="gene")
    rows = "\n".join(f"{gene} {' '.join(map(str, row))}" for gene, row in zip(GENES, TABLE.tolist(), strict=True))
    (tmp_path / "w2v.txt").write_text(f"{N} 4\n{rows}\n")
    obs = pd.DataFrame(index=GENES.astype(object))
    anndata.AnnData(TABLE, obs=obs).write_h5ad(tmp_path / "t.h5ad")
    for path in (table, tmp_path / "t.tsv", tmp_path / "w2v.txt", tmp_path / "t.h5ad"):
        names, found = read_embedding(path)
        assert names.tolist() == GENES.tolist()
        np.testing.assert_allclose(found, TABLE, rtol=1e-5)


def test_pairs_by_both_splits_beside_baselines(tmp_path, table):
    rng = np.random.default_rng(1)
    a, b = rng.integers(N, size=(2, 3000))
    near = TABLE[a, 0] * TABLE[b, 0] > 0
    rows = [f"G{i}\tG{j}\t{int(y)}" for i, j, y in zip(a, b, near, strict=True) if i != j] + ["G1\tNOVEL\t1"]
    (tmp_path / "pairs.tsv").write_text("gene_a\tgene_b\tlabel\n" + "\n".join(rows) + "\n")
    result = evaluate_genes([table], tmp_path / "o.json", gene_pairs=tmp_path / "pairs.tsv")
    for split in ("random", "gene-disjoint"):
        found = by(result, split=split)
        assert set(found) == {"t.npz", "random vectors", "number of partners"}
        assert found["t.npz"]["auc"] > found["random vectors"]["auc"]
    assert by(result, split="gene-disjoint")["t.npz"]["auc"] > 0.7
    assert abs(by(result, split="gene-disjoint")["random vectors"]["auc"] - 0.5) < 0.2
    assert json.loads((tmp_path / "o.json").read_text()) == result
    tested = evaluate_genes(
        [table], gene_pairs=tmp_path / "pairs.tsv", test_pairs=tmp_path / "pairs.tsv", max_pairs=400
    )
    assert by(tested, split="random")["t.npz"]["test"] == 400


def test_all_tables_are_scored_on_the_genes_that_all_have(tmp_path, table):
    write_npz(tmp_path / "u.npz", {"embedding": TABLE[:60], "genes": GENES[:60]}, {"kind": "gene-embedding"})
    (tmp_path / "s.tsv").write_text("".join(f"G{i}\t{TABLE[i, 1]}\n" for i in range(N)))
    result = evaluate_genes([table, tmp_path / "u.npz"], scores=tmp_path / "s.tsv")
    found = by(result, task="regression")
    assert {entry["genes"] for entry in found.values()} == {60}
    assert found["t.npz"]["pearson"] > 0.99
    assert abs(found["random vectors"]["pearson"]) < 0.5


def test_lists_and_coexpression(tmp_path, table):
    listed = TABLE[:, 2] > 0
    text = "".join(f"{'yes' if y else 'no'}\tG{i}\n" for i, y in enumerate(listed))
    (tmp_path / "lists.tsv").write_text("list\tgene\n" + text + "yes\tG0\nno\tG0\n")
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(np.exp(rng.normal(size=(90, 4)) @ TABLE.T * 0.6)).astype(np.float32))
    anndata.AnnData(counts, var=pd.DataFrame(index=GENES.astype(object))).write_h5ad(tmp_path / "rna.h5ad")
    result = evaluate_genes(
        [table],
        lists=tmp_path / "lists.tsv",
        positive_list="yes",
        negative_list="no",
        coexpression=tmp_path / "rna.h5ad",
    )
    found = by(result, task="lists")
    assert found["t.npz"]["auc"] > 0.95
    assert found["co-expression SVD"]["auc"] > found["random vectors"]["auc"]
    assert sum(found["t.npz"]["genes"]) == N - 1
    with pytest.raises(InputError, match="no list 'maybe'"):
        evaluate_genes([table], lists=tmp_path / "lists.tsv", positive_list="yes", negative_list="maybe")


def test_string_links(tmp_path):
    rows = ["protein1 protein2 experimental combined_score", "9.A 9.B 500 1", "9.B 9.A 500 1", "9.A 9.C 200 1"]
    text = "\n".join([*rows, "9.C 9.D 30 1", "9.X 9.A 900 1"]) + "\n"
    with gzip.open(tmp_path / "links.txt.gz", "wt") as handle:
        handle.write(text)
    (tmp_path / "info.tsv").write_text("#id\tname\n9.A\tG1\n9.B\tG2\n9.C\tG3\n9.D\tG4\n")
    pairs, related = read_links(tmp_path / "links.txt.gz", tmp_path / "info.tsv", "experimental", 200)
    assert dict(zip(pairs, related.tolist(), strict=True)) == {("G1", "G2"): True, ("G3", "G4"): False}
    with pytest.raises(InputError, match="coexpression"):
        read_links(tmp_path / "links.txt.gz", None, "coexpression", 200)


def test_pairs_without_labels_get_negatives(tmp_path, table):
    rng = np.random.default_rng(2)
    rows = {tuple(sorted(pair)) for pair in rng.integers(N, size=(600, 2)).tolist() if pair[0] != pair[1]}
    (tmp_path / "p.tsv").write_text("gene_a\tgene_b\n" + "".join(f"G{a}\tG{b}\n" for a, b in sorted(rows)))
    assert read_pairs(tmp_path / "p.tsv")[1] is None
    found = by(evaluate_genes([table], gene_pairs=tmp_path / "p.tsv", pair_splits=["random"]))
    assert abs(found["number of partners"]["auc"] - 0.5) < 0.15


@pytest.mark.parametrize(
    ("name", "text", "reader", "told"),
    [
        ("p.tsv", "A\tB\tmaybe\nC\tD\t1\nE\tF\t2\n", read_pairs, "line 3"),
        ("p.tsv", "A\tB\t1\tx\n", read_pairs, "line 1: 4 fields"),
        ("s.tsv", "A\t1\nB\tx\n", read_scores, "'x' is not a number"),
        ("s.tsv", "A\t1\nA\t2\n", read_scores, "two scores"),
        ("l.tsv", "A\n", read_lists, "1 fields"),
        ("t.tsv", "A\t1\t2\nB\t1\n", read_embedding, "line 2: 1 numbers"),
        ("t.tsv", "A\t1\nB\tx\n", read_embedding, "line 2"),
        ("t.tsv", "A\t1\nA\t2\n", read_embedding, "more than once"),
        ("t.tsv", "A\tnan\n", read_embedding, "not finite"),
    ],
)
def test_unfit_files_name_the_line(tmp_path, name, text, reader, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        reader(tmp_path / name)


def test_misfits(tmp_path, table):
    (tmp_path / "p.tsv").write_text("X\tY\t1\nY\tZ\t0\n")
    with pytest.raises(InputError, match="0 pairs"):
        evaluate_genes([table], gene_pairs=tmp_path / "p.tsv")
    for options in (
        {},
        {"lists": tmp_path / "p.tsv"},
        {"test_pairs": tmp_path / "p.tsv"},
        {"gene_pairs": tmp_path / "p.tsv", "pair_splits": ["x"]},
    ):
        with pytest.raises(UsageError):
            evaluate_genes([table], **options)
