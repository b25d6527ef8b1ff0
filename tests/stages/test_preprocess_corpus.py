"""``preprocess corpus``: every count arrives, once, in any order of genes and files; stops, damage and misfits."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io import shards
from scmap_cli.io.shards import building, open_corpus
from scmap_cli.stages import preprocess_corpus as stage
from scmap_cli.stages.preprocess_corpus import preprocess_corpus

GENES = np.array([f"GENE{i}" for i in range(30)])
SMALL = {"part_cells": 24, "block_cells": 8}


def study(path: Path, n=50, genes=GENES, seed=0, kind=sparse.csr_matrix, dtype=np.float32, **more) -> Path:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.6, (n, len(genes))).astype(dtype)
    obs = pd.DataFrame({"donor": [f"d{i % 3}" for i in range(n)]}, index=[f"{path.stem}-{i}" for i in range(n)])
    var = pd.DataFrame(more.pop("var", {}), index=genes)
    anndata.AnnData(kind(counts), obs=obs, var=var, **more).write_h5ad(path)
    return path


def table(path: Path) -> pd.DataFrame:
    """The corpus as cells x genes, by names."""
    corpus = open_corpus(path)
    corpus.verify()
    frames = []
    for number in range(len(corpus.parts)):
        cells = corpus.read(number, names=True)
        dense = np.zeros((len(cells.total), len(corpus.genes)))
        row = np.repeat(np.arange(len(cells.total)), np.diff(cells.edges))
        dense[row, cells.gene] = cells.count
        np.testing.assert_array_equal(dense.sum(1), cells.total)
        frame = pd.DataFrame(dense, index=cells.names, columns=corpus.genes)
        frames.append(frame.assign(study=[corpus.studies[code] for code in cells.study]))
    return pd.concat(frames)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def expected(*files: Path) -> pd.DataFrame:
    frames = [
        pd.DataFrame(np.asarray(a[:, sorted(a.var_names)].to_df()), a.obs_names, sorted(a.var_names))
        for a in map(anndata.read_h5ad, files)
    ]
    return pd.concat(frames).fillna(0)


def test_every_count_arrives_once(tmp_path):
    files = [study(tmp_path / "a.h5ad"), study(tmp_path / "b.h5ad", genes=GENES[5:][::-1], seed=1)]
    summary = preprocess_corpus(files, tmp_path / "c.zarr", **SMALL)
    found, wanted = table(tmp_path / "c.zarr"), expected(*files)
    assert summary["cells"] == len(found) == 100
    assert summary["parts"] == 5
    genes = list(wanted.columns)
    np.testing.assert_array_equal(found.loc[wanted.index, genes].to_numpy(), wanted.to_numpy())
    assert (found["study"] == [name[0] for name in found.index]).all()


def test_cells_of_all_studies_are_mixed(tmp_path):
    files = [study(tmp_path / f"{name}.h5ad", n=200, seed=i) for i, name in enumerate("ab")]
    preprocess_corpus(files, tmp_path / "c.zarr", part_cells=80, block_cells=8)
    corpus = open_corpus(tmp_path / "c.zarr")
    for number in range(len(corpus.parts)):
        codes = corpus.read(number).study
        assert 0.15 < codes.mean() < 0.85
        assert np.count_nonzero(np.diff(codes.astype(int))) > 15


@pytest.mark.parametrize("kind", [sparse.csc_matrix, np.asarray], ids=["csc", "dense"])
def test_the_form_of_the_matrix_does_not_show(tmp_path, kind):
    (tmp_path / "x").mkdir()
    one = study(tmp_path / "a.h5ad")
    other = study(tmp_path / "x" / "a.h5ad", kind=kind)
    preprocess_corpus([one], tmp_path / "1.zarr", **SMALL)
    preprocess_corpus([other], tmp_path / "2.zarr", **SMALL)
    left, right = contents(tmp_path / "1.zarr"), contents(tmp_path / "2.zarr")
    del left["zarr.json"], right["zarr.json"]
    assert left == right


def test_the_order_of_files_and_genes_does_not_show_and_the_seed_does(tmp_path):
    (tmp_path / "x").mkdir()
    files = [study(tmp_path / "a.h5ad"), study(tmp_path / "b.h5ad", seed=1)]
    turned = anndata.read_h5ad(files[0])[:, ::-1].copy()
    turned.write_h5ad(tmp_path / "x" / "a.h5ad")
    preprocess_corpus(files, tmp_path / "1.zarr", **SMALL)
    preprocess_corpus([files[1], tmp_path / "x" / "a.h5ad"], tmp_path / "2.zarr", **SMALL)
    preprocess_corpus(files, tmp_path / "3.zarr", **SMALL, seed=1)
    parts = [{k: v for k, v in contents(tmp_path / f"{i}.zarr").items() if k != "zarr.json"} for i in (1, 2, 3)]
    assert parts[0] == parts[1] != parts[2]


def test_counts_are_found_in_layers_and_raw(tmp_path):
    path = study(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(path)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    adata.write_h5ad(tmp_path / "b.h5ad")
    del adata.layers["counts"]
    adata.write_h5ad(tmp_path / "none.h5ad")
    preprocess_corpus([tmp_path / "b.h5ad"], tmp_path / "c.zarr")
    assert table(tmp_path / "c.zarr").drop(columns="study").to_numpy().sum() == anndata.read_h5ad(path).X.sum()
    with pytest.raises(InputError, match="non-integer"):
        preprocess_corpus([tmp_path / "none.h5ad"], tmp_path / "d.zarr")


def test_a_fault_deep_in_a_file_is_found_and_nothing_is_left_whole(tmp_path):
    path = study(tmp_path / "a.h5ad", n=3000)
    adata = anndata.read_h5ad(path)
    adata.X.data[-1] = 0.5
    adata.write_h5ad(path)
    with pytest.raises(InputError, match="cells 29"):
        preprocess_corpus([path], tmp_path / "c.zarr", block_cells=100)
    assert not (tmp_path / "c.zarr").exists()


def test_genes_keep_their_given_order_and_strange_ones_are_dropped(tmp_path):
    (tmp_path / "genes.txt").write_text("GENE7\nGENE3\nNOVEL\nGENE1\n")
    path = study(tmp_path / "a.h5ad")
    preprocess_corpus([path], tmp_path / "c.zarr", genes=tmp_path / "genes.txt", min_genes=1)
    corpus, found = open_corpus(tmp_path / "c.zarr"), table(tmp_path / "c.zarr")
    assert corpus.genes.tolist() == ["GENE7", "GENE3", "NOVEL", "GENE1"]
    wanted = expected(path).loc[found.index, ["GENE7", "GENE3", "GENE1"]]
    np.testing.assert_array_equal(found[["GENE7", "GENE3", "GENE1"]].to_numpy(), wanted.to_numpy())
    assert (found["NOVEL"] == 0).all()


def gene_table(path: Path) -> Path:
    rows = [f"ENSG{i:011d}.{i % 4 + 1}\tGENE{i}\t{'protein_coding' if i % 5 else 'lncRNA'}" for i in range(30)]
    path.write_text("gene_id\tgene_name\tgene_type\n" + "\n".join(rows) + "\n")
    return path


def test_a_table_brings_identifiers_and_symbols_together_and_keeps_a_biotype(tmp_path):
    ids = np.array([f"ENSG{i:011d}.9" for i in range(30)])
    files = [study(tmp_path / "a.h5ad"), study(tmp_path / "b.h5ad", genes=ids, seed=1)]
    names = gene_table(tmp_path / "genes.tsv")
    preprocess_corpus(files, tmp_path / "c.zarr", gene_table=names, biotype="protein_coding")
    found = table(tmp_path / "c.zarr")
    coding = [f"GENE{i}" for i in range(30) if i % 5]
    assert set(open_corpus(tmp_path / "c.zarr").genes) == set(coding)
    other = anndata.read_h5ad(files[1])
    other.var_names = GENES
    wanted = pd.concat([anndata.read_h5ad(files[0]).to_df(), other.to_df()]).loc[found.index, coding]
    np.testing.assert_array_equal(found[coding].to_numpy(), wanted.to_numpy())


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([f"ENSG{i:011d}" for i in range(30)], "Ensembl identifiers"),
        ([f"Gene{i}x" for i in range(30)], "mixed case"),
        ([f"OTHER{i}" for i in range(30)], "OTHER0"),
    ],
)
def test_other_kinds_of_names_are_told(tmp_path, names, told):
    files = [study(tmp_path / "a.h5ad"), study(tmp_path / "b.h5ad", genes=np.array(names))]
    with pytest.raises(InputError, match="0 of 30 genes in common") as caught:
        preprocess_corpus(files, tmp_path / "c.zarr")
    assert told in str(caught.value.hint)


@pytest.mark.parametrize("strange", [1, 2, 3])
def test_files_of_other_names_do_not_vouch_for_each_other(tmp_path, strange):
    """Two files and as many, or fewer, or more, whose names are of another kind."""
    ids = np.array([f"ENSG{i:011d}" for i in range(30)])
    files = [study(tmp_path / f"s{i}.h5ad", seed=i) for i in range(2)]
    files += [study(tmp_path / f"e{i}.h5ad", genes=ids, seed=i) for i in range(strange)]
    with pytest.raises(InputError, match="0 of 30 genes in common") as caught:
        preprocess_corpus(files, tmp_path / "c.zarr")
    assert "Ensembl identifiers" in str(caught.value.hint)
    if strange != 2:
        # The odd ones are named first.
        assert str(caught.value).startswith(str(tmp_path / ("s" if strange == 3 else "e")))
    found = preprocess_corpus(files, tmp_path / "c.zarr", gene_table=gene_table(tmp_path / "genes.tsv"))
    assert found["genes"] == 30


def test_overlaps_may_form_a_chain(tmp_path):
    """The first and the last file have no gene in common, but each has with the one between."""
    files = [study(tmp_path / f"{i}.h5ad", genes=GENES[i * 10 : i * 10 + 15], seed=i) for i in (2, 0, 1)]
    assert preprocess_corpus(files, tmp_path / "c.zarr")["genes"] == 30
    with pytest.raises(InputError, match="5 of 15 genes in common"):
        preprocess_corpus(files, tmp_path / "d.zarr", min_overlap=0.5)


def test_genes_whose_names_repeat_are_told(tmp_path, caplog):
    var = {"some": [*GENES[:10], *(["TWICE"] * 2), *(["OFTEN"] * 18)], "all": ["TWICE", "OFTEN"] * 15}
    path = study(tmp_path / "a.h5ad", var=var)
    assert preprocess_corpus([path], tmp_path / "c.zarr", gene_column="some")["genes"] == 10
    assert "20 genes are left out, whose names occur more than once" in caplog.text
    with pytest.raises(InputError, match="every gene name occurs more than once"):
        preprocess_corpus([path], tmp_path / "d.zarr", gene_column="all")


def test_a_list_may_hold_genes_that_the_table_lacks(tmp_path):
    (tmp_path / "genes.txt").write_text("\n".join(["NOVEL", "STRANGE", *GENES]))
    names = gene_table(tmp_path / "genes.tsv")
    options = {"genes": tmp_path / "genes.txt", "gene_table": names}
    preprocess_corpus([study(tmp_path / "a.h5ad")], tmp_path / "c.zarr", **options)
    found = table(tmp_path / "c.zarr")
    wanted = expected(tmp_path / "a.h5ad").loc[found.index, GENES]
    np.testing.assert_array_equal(found[GENES].to_numpy(), wanted.to_numpy())
    assert (found[["NOVEL", "STRANGE"]] == 0).all(axis=None)


def test_different_genomes_are_refused_unless_asked_for(tmp_path):
    files = [
        study(tmp_path / f"{name}.h5ad", var={"genome": [name] * 30}, seed=i)
        for i, name in enumerate(["GRCh38", "hg19"])
    ]
    with pytest.raises(InputError, match="hg19"):
        preprocess_corpus(files, tmp_path / "c.zarr")
    assert preprocess_corpus(files, tmp_path / "c.zarr", mixed_genomes=True)["cells"] == 100
    assert open_corpus(tmp_path / "c.zarr").genomes == ["GRCh38", "hg19"]
    # Added one after the other they are no less different.
    preprocess_corpus(files[:1], tmp_path / "d.zarr")
    with pytest.raises(InputError, match=r"d\.zarr is of GRCh38, hg19\.h5ad is of hg19"):
        preprocess_corpus(files[1:], tmp_path / "d.zarr", append=True)
    assert preprocess_corpus(files[1:], tmp_path / "d.zarr", append=True, mixed_genomes=True)["cells"] == 100


def test_a_corpus_of_before_genomes_were_kept_is_read(tmp_path):
    out = tmp_path / "c.zarr"
    preprocess_corpus([study(tmp_path / "a.h5ad", var={"genome": ["hg19"] * 30})], out)
    manifest = json.loads((out / "zarr.json").read_text())
    del manifest["attributes"]["scmap_corpus"]["genomes"]
    (out / "zarr.json").write_text(json.dumps(manifest))
    preprocess_corpus([study(tmp_path / "b.h5ad", var={"genome": ["GRCh38"] * 30})], out, append=True)
    assert open_corpus(out).genomes == ["GRCh38"]


def test_studies_come_from_names_or_a_column(tmp_path):
    files = [study(tmp_path / "b.h5ad"), study(tmp_path / "a.h5ad")]
    preprocess_corpus(files, tmp_path / "1.zarr", study=["first", "second"])
    found = table(tmp_path / "1.zarr")
    assert (found["study"] == np.where(found.index.str.startswith("b"), "first", "second")).all()
    preprocess_corpus(files, tmp_path / "2.zarr", study_key="donor")
    found = table(tmp_path / "2.zarr")
    assert (found["study"] == [f"d{int(name.split('-')[1]) % 3}" for name in found.index]).all()


def test_appending_adds_and_keeps(tmp_path):
    files = [study(tmp_path / "a.h5ad"), study(tmp_path / "b.h5ad", seed=1)]
    out = tmp_path / "c.zarr"
    preprocess_corpus(files[:1], out, **SMALL)
    before = {k: v for k, v in contents(out).items() if k != "zarr.json"}
    preprocess_corpus(files[1:], out, **SMALL, append=True)
    assert before.items() <= contents(out).items()
    found, wanted = table(out), expected(*files)
    np.testing.assert_array_equal(found.loc[wanted.index, wanted.columns].to_numpy(), wanted.to_numpy())
    corpus = open_corpus(out)
    assert corpus.studies == ["a", "b"]
    assert len(corpus.history) == 2
    for again in (files[1:], [study(tmp_path / "d.h5ad", seed=2), files[0]]):
        with pytest.raises(InputError, match=r"has a study '[ab]' already"):
            preprocess_corpus(again, out, **SMALL, append=True)
    assert len(table(out)) == 100


@pytest.mark.parametrize("append", [False, True])
def test_a_stopped_build_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch, append):
    files = [study(tmp_path / "a.h5ad"), study(tmp_path / "b.h5ad", n=90, seed=1)]
    outputs = [tmp_path / "one" / "c.zarr", tmp_path / "two" / "c.zarr"]
    for out in outputs:
        out.parent.mkdir()
        if append:
            preprocess_corpus(files[:1], out, **SMALL)
    given = files[1:] if append else files
    preprocess_corpus(given, outputs[0], **SMALL, append=append)
    written = []
    original = stage.shards.write_part

    def stopping(path, name, cells):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        return original(path, name, cells)

    monkeypatch.setattr(stage.shards, "write_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        preprocess_corpus(given, outputs[1], **SMALL, append=append)
    if append:
        assert len(open_corpus(outputs[1]).parts) == 3
    else:
        with pytest.raises(InputError, match="has not ended"):
            open_corpus(outputs[1])
    seen = []
    monkeypatch.setattr(stage.shards, "write_part", lambda *a: seen.append(a[1]) or original(*a))
    preprocess_corpus(given, outputs[1], **SMALL, append=append)
    assert not set(seen) & set(written)
    assert contents(outputs[0]) == contents(outputs[1])
    assert not building(outputs[1]).exists()


def test_damaged_parts_of_a_stopped_build_are_made_anew(tmp_path, monkeypatch):
    path, out = study(tmp_path / "a.h5ad", n=90), tmp_path / "c.zarr"
    original = shards.write_part
    monkeypatch.setattr(stage.shards, "write_part", lambda p, n, c: 1 / 0 if n == "part-00002" else original(p, n, c))
    with pytest.raises(ZeroDivisionError):
        preprocess_corpus([path], out, **SMALL)
    victim = building(out) / "part-00000" / "gene" / "c" / "0"
    victim.write_bytes(victim.read_bytes()[:-9])
    monkeypatch.setattr(stage.shards, "write_part", original)
    preprocess_corpus([path], out, **SMALL)
    assert len(table(out)) == 90


def test_what_is_left_out_is_counted_over_all_runs_of_a_build(tmp_path, monkeypatch, caplog):
    path, out = study(tmp_path / "a.h5ad", n=90), tmp_path / "c.zarr"
    adata = anndata.read_h5ad(path)
    counts = adata.X.toarray()
    counts[::3], counts[1::3, 0] = 0, 70000
    adata.X = sparse.csr_matrix(counts)
    adata.write_h5ad(path)
    original = shards.write_part
    monkeypatch.setattr(stage.shards, "write_part", lambda p, n, c: 1 / 0 if n == "part-00002" else original(p, n, c))
    with pytest.raises(ZeroDivisionError):
        preprocess_corpus([path], out, **SMALL)
    monkeypatch.setattr(stage.shards, "write_part", original)
    preprocess_corpus([path], out, **SMALL)
    assert "30 counts above 65535" in caplog.text
    told = json.loads(out.with_name("c.zarr.run.json").read_text())["machine"]
    assert (told["saturated_counts"], told["cells_left_out"]) == (30, 30)


def test_large_counts_are_cut_and_told(tmp_path):
    path = study(tmp_path / "a.h5ad")
    adata = anndata.read_h5ad(path)
    adata.X.data[3] = 70000
    adata.write_h5ad(path)
    preprocess_corpus([path], tmp_path / "c.zarr")
    assert table(tmp_path / "c.zarr").drop(columns="study").to_numpy().max() == 65535


def test_cells_with_few_genes_are_left_out(tmp_path):
    adata = anndata.AnnData(sparse.csr_matrix(np.array([[5, 0, 0], [1, 2, 0], [0, 0, 0], [1, 1, 1]], dtype=np.float32)))
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert preprocess_corpus([tmp_path / "a.h5ad"], tmp_path / "c.zarr")["cells"] == 2
    with pytest.raises(InputError, match="no cell has 9 genes"):
        preprocess_corpus([tmp_path / "a.h5ad"], tmp_path / "d.zarr", min_genes=9)


@pytest.mark.parametrize(
    "options",
    [
        {"study": ["x", "y"]},
        {"study": ["x"], "study_key": "donor"},
        {"biotype": "protein_coding"},
        {"append": True, "force": True},
        {"part_cells": 0},
        {"min_overlap": 2.0},
    ],
    ids=str,
)
def test_options_that_make_no_sense(tmp_path, options):
    with pytest.raises(UsageError):
        preprocess_corpus([study(tmp_path / "a.h5ad")], tmp_path / "c.zarr", **options)


def test_an_existing_output_is_kept(tmp_path):
    path, out = study(tmp_path / "a.h5ad"), tmp_path / "c.zarr"
    preprocess_corpus([path], out)
    before = contents(out)
    with pytest.raises(OutputExistsError, match="already exists"):
        preprocess_corpus([path], out)
    preprocess_corpus([path], out, force=True)
    assert contents(out) == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputExistsError, match="no corpus"):
        preprocess_corpus([path], tmp_path / "mine", force=True)
