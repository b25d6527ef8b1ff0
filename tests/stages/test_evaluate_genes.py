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
from scmap_cli.metrics.genes import pair_features
from scmap_cli.stages import evaluate_genes as stage
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
    # Below one half, as the genes of a related test pair have a partner less among the training pairs.
    assert 0.2 < found["number of partners"]["auc"] < 0.6


def test_drawn_pairs_of_training_and_test_are_neither_shared_nor_related(tmp_path, table, monkeypatch):
    """Of 40 genes there are so few pairs that independent draws would hit the other side's."""
    rows = np.stack(np.triu_indices(40, 1), 1)
    rows = rows[np.random.default_rng(3).permutation(len(rows))]
    for name, part in (("train", rows[:250]), ("test", rows[250:400])):
        (tmp_path / f"{name}.tsv").write_text("".join(f"G{a}\tG{b}\n" for a, b in part))
    seen = []
    monkeypatch.setattr(stage, "pair_features", lambda table, some: seen.append(some) or pair_features(table, some))
    paths = {"gene_pairs": tmp_path / "train.tsv", "test_pairs": tmp_path / "test.tsv"}
    evaluate_genes([table], **paths, pair_splits=["random"])
    train, test = (
        {(min(a, b), max(a, b)): y for a, b, y in zip(some.first, some.second, some.related, strict=True)}
        for some in seen[:2]
    )
    assert sum(train.values()) == 250
    assert sum(test.values()) == 150
    assert len(train) > 300
    assert len(test) > 200
    assert not train.keys() & test.keys()


def test_string_links_from_file_to_scores(tmp_path, table):
    """Links above the threshold are of genes whose first numbers agree; what the threshold is matters."""
    rng = np.random.default_rng(4)
    lines = ["protein1 protein2 experimental combined_score"]
    for a, b in {tuple(sorted(pair)) for pair in rng.integers(N, size=(2500, 2)).tolist() if pair[0] != pair[1]}:
        score = 700 if TABLE[a, 0] * TABLE[b, 0] > 0 else 100
        lines += [f"9606.P{a} 9606.P{b} {score} 999", f"9606.P{b} 9606.P{a} {score} 999"]
    with gzip.open(tmp_path / "links.txt.gz", "wt") as handle:
        handle.write("\n".join(lines) + "\n")
    info = "".join(f"9606.P{i}\tG{i}\t100\tsome protein\n" for i in range(N))
    (tmp_path / "info.tsv").write_text("#string_protein_id\tpreferred_name\tprotein_size\tannotation\n" + info)
    paths = {"links": tmp_path / "links.txt.gz", "protein_names": tmp_path / "info.tsv"}
    result = evaluate_genes([table], **paths, positive_above=400, pair_splits=["random"])
    found = by(result, data="links.txt.gz")
    assert found["t.npz"]["auc"] > 0.75 > found["random vectors"]["auc"]
    assert found["t.npz"]["train"] + found["t.npz"]["test"] == (len(lines) - 1) // 2
    assert result["settings"]["positive_above"] == 400
    with pytest.raises(InputError, match="0 of them related"):
        evaluate_genes([table], **paths, positive_above=800)


def test_a_gene_table_brings_tables_and_tasks_together(tmp_path, table, caplog):
    ids = [f"ENSG{i:011d}" for i in range(N)]
    (tmp_path / "genes.tsv").write_text("gene_id\tgene_name\n" + "".join(f"{e}.3\tG{i}\n" for i, e in enumerate(ids)))
    # The last row is the second of G0.
    both = {"embedding": np.concatenate([TABLE, TABLE[:1]]), "genes": np.array([*ids, "G0"])}
    write_npz(tmp_path / "ids.npz", both, {"kind": "gene-embedding"})
    (tmp_path / "s.tsv").write_text("".join(f"{ids[i]}.7\t{TABLE[i, 1]}\n" for i in range(N)))
    listed = "".join(f"{'yes' if TABLE[i, 2] > 0 else 'no'}\t{ids[i] if i % 2 else f'G{i}'}\n" for i in range(N))
    (tmp_path / "l.tsv").write_text(listed)
    rng = np.random.default_rng(1)
    pairs = [(a, b) for a, b in rng.integers(N, size=(300, 2)).tolist() if a != b]
    (tmp_path / "p.tsv").write_text("".join(f"{ids[a]}\tG{b}\t{int(TABLE[a, 0] > 0)}\n" for a, b in pairs))
    tasks = {"scores": tmp_path / "s.tsv", "gene_pairs": tmp_path / "p.tsv", "pair_splits": ["random"]}
    tasks |= {"lists": tmp_path / "l.tsv", "positive_list": "yes", "negative_list": "no"}
    with pytest.raises(InputError, match="1 genes in common") as caught:
        evaluate_genes([tmp_path / "ids.npz", table], **tasks)
    assert "--gene-table" in caught.value.hint
    result = evaluate_genes([tmp_path / "ids.npz", table], **tasks, gene_table=tmp_path / "genes.tsv")
    assert "ids.npz: 2 genes are left out" in caplog.text
    assert result["settings"]["genes"] == N - 1
    found = by(result, task="regression")
    assert found["ids.npz"]["pearson"] == found["t.npz"]["pearson"] > 0.99
    assert by(result, task="lists")["ids.npz"]["genes"] == by(result, task="lists")["t.npz"]["genes"]
    assert sum(by(result, task="lists")["t.npz"]["genes"]) == N - 1
    assert by(result, task="pairs")["ids.npz"] | {"embedding": "t.npz"} == by(result, task="pairs")["t.npz"]


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
