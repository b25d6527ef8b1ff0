import json
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli import keys
from scmap_cli.errors import InputError, OutputExistsError, UsageError, WriteError
from scmap_cli.io.gmt import GeneSet
from scmap_cli.io.npz import read_npz
from scmap_cli.io.programs import load_programs
from scmap_cli.stages.preprocess_programs import build_programs, preprocess_programs


def write_data(path, genes, **columns):
    x = sparse.csr_matrix(np.ones((3, len(genes)), dtype=np.float32))
    anndata.AnnData(X=x, var=pd.DataFrame(columns, index=pd.Index(genes, dtype=object))).write_h5ad(path)
    return path


def write_gmt(path, sets):
    path.write_text("".join("\t".join([name, "d", *genes]) + "\n" for name, genes in sets.items()))
    return path


def gene_names(count, prefix="G"):
    return [f"{prefix}{i}" for i in range(count)]


def nested(sizes, prefix="G"):
    return {f"S{size}": gene_names(size, prefix) for size in sizes}


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "d.h5ad", gene_names(40))


def test_the_mask_equals_the_naive_one():
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in rng.permutation(300)]
    pool = [f"G{i}" for i in range(400)]
    sets = [GeneSet(f"S{k}", tuple(rng.choice(pool, rng.integers(0, 60), replace=False))) for k in range(50)]
    programs = build_programs(sets, genes)
    naive = np.array([[gene in one.genes for one in sets] for gene in genes])
    np.testing.assert_array_equal(programs.mask.toarray(), naive)
    assert programs.mask.has_sorted_indices
    np.testing.assert_array_equal(programs.size_after, naive.sum(axis=0))
    np.testing.assert_array_equal(programs.size_before, [len(one.genes) for one in sets])


def test_size_bounds_are_inclusive(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", nested([12, 13, 20, 21]))
    report = preprocess_programs([gmt], tmp_path / "p.npz", genes=data, max_genes=20)
    programs = load_programs(tmp_path / "p.npz")
    assert programs.programs.tolist() == ["S13", "S20"]
    assert (report["dropped_below_min_genes"], report["dropped_above_max_genes"], report["sets_kept"]) == (1, 1, 2)
    assert programs.genes.tolist() == gene_names(40)
    assert report["data_genes_in_kept_sets"] == programs.covered.sum() == 20
    preprocess_programs([gmt], tmp_path / "q.npz", genes=data, min_genes=1, min_genes_before=13, max_genes_before=20)
    assert load_programs(tmp_path / "q.npz").programs.tolist() == ["S13", "S20"]


def test_sizes_after_count_only_the_genes_of_the_data(tmp_path):
    data = write_data(tmp_path / "d.h5ad", gene_names(13))
    gmt = write_gmt(tmp_path / "s.gmt", {"S": gene_names(50), "T": gene_names(50)[1:]})
    report = preprocess_programs([gmt], tmp_path / "p.npz", genes=data)
    programs = load_programs(tmp_path / "p.npz")
    assert (programs.programs.tolist(), programs.size_before.tolist(), programs.size_after.tolist()) == (
        ["S"],
        [50],
        [13],
    )
    assert (report["set_genes"], report["set_genes_in_data"], report["set_genes_not_in_data"]) == (50, 13, 37)


def test_names_are_kept_whole_and_apart_over_files(tmp_path, data):
    name = "REACTOME_A_VERY_LONG_NAME_THAT_OTHERS_CUT_AFTER_THIRTY_LETTERS_"
    one = write_gmt(tmp_path / "a.gmt", {name + "ONE": gene_names(20), name + "TWO": gene_names(15)})
    two = write_gmt(tmp_path / "b.gmt", {name + "ONE": gene_names(30)})
    report = preprocess_programs([one, two], tmp_path / "p.npz", genes=data)
    programs = load_programs(tmp_path / "p.npz")
    assert programs.programs.tolist() == [name + "ONE", name + "TWO", name + "ONE__2"]
    assert programs.size_after.tolist() == [20, 15, 30]
    assert report["sets_renamed"] == 1


def test_patterns_on_names(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", {"KEGG_A": gene_names(20), "GO_A": gene_names(20), "GO_B": gene_names(20)})
    report = preprocess_programs([gmt], tmp_path / "p.npz", genes=data, keep=["GO_*", "X"], drop=["*_B"])
    assert load_programs(tmp_path / "p.npz").programs.tolist() == ["GO_A"]
    assert report["dropped_by_name"] == 2


def test_case_policies(tmp_path, caplog):
    data = write_data(tmp_path / "d.h5ad", [f"Gene{i}" for i in range(20)])
    gmt = write_gmt(tmp_path / "s.gmt", {"S": [f"GENE{i}" for i in range(20)]})
    with pytest.raises(InputError, match="none of the 20 genes") as caught:
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data, case="exact")
    assert "--case upper" in caught.value.hint
    assert not (tmp_path / "p.npz").exists()
    with caplog.at_level("WARNING", "scmap"):
        report = preprocess_programs([gmt], tmp_path / "p.npz", genes=data)
    assert report["case"] == "upper"
    assert "case is ignored" in caplog.text
    programs = load_programs(tmp_path / "p.npz")
    assert programs.genes[0] == "Gene0"
    assert programs.mask.nnz == 20


def test_auto_keeps_exact_spelling_where_it_works(tmp_path):
    data = write_data(tmp_path / "d.h5ad", [*gene_names(20), "C1orf1"])
    gmt = write_gmt(tmp_path / "s.gmt", {"S": [*gene_names(20), "C1ORF1"]})
    assert preprocess_programs([gmt], tmp_path / "p.npz", genes=data)["case"] == "exact"
    assert load_programs(tmp_path / "p.npz").mask.nnz == 20
    preprocess_programs([gmt], tmp_path / "q.npz", genes=data, case="upper")
    assert load_programs(tmp_path / "q.npz").mask.nnz == 21


def test_a_column_of_symbols_matches_while_names_stay(tmp_path):
    ids = [f"ENSG{i:011d}" for i in range(20)]
    data = write_data(tmp_path / "d.h5ad", ids, symbol=[*gene_names(19), "G0"])
    gmt = write_gmt(tmp_path / "s.gmt", {"S": gene_names(19)})
    with pytest.raises(InputError) as caught:
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data)
    assert "Ensembl" in caught.value.hint
    assert "--gene-column" in caught.value.hint
    versions = write_gmt(tmp_path / "v.gmt", {"S": [f"{name}.17" for name in ids]})
    with pytest.raises(InputError) as caught:
        preprocess_programs([versions], tmp_path / "p.npz", genes=data)
    assert "without the versions" in caught.value.hint
    preprocess_programs([gmt], tmp_path / "p.npz", genes=data, gene_column="symbol")
    programs = load_programs(tmp_path / "p.npz")
    assert programs.genes.tolist() == ids
    assert programs.mask.nnz == 20
    with pytest.raises(InputError, match="no column 'nope'"):
        preprocess_programs([gmt], tmp_path / "q.npz", genes=data, gene_column="nope")


def test_nothing_left_tells_the_numbers(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", nested([3, 7]))
    with pytest.raises(InputError, match="of 2, 2 share fewer than 13 genes with the data; the largest overlap is 7"):
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data)
    with pytest.raises(InputError, match="1 dropped by name, 1 by their number"):
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data, drop=["S3"], min_genes_before=8)
    empty = tmp_path / "e.gmt"
    empty.write_text("S\td\n")
    with pytest.raises(InputError, match="none of the 0 genes"):
        preprocess_programs([empty], tmp_path / "p.npz", genes=data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.h5ad", "e.gmt", "s.gmt"]


def test_repeated_gene_names_in_the_data_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="not unique"):
        data = write_data(tmp_path / "d.h5ad", ["A", "A", "B"])
    gmt = write_gmt(tmp_path / "s.gmt", {"S": ["A", "B"]})
    with pytest.raises(InputError, match="'A'"):
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data, min_genes=1)


def test_options_and_outputs_are_checked_first(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", nested([20]))
    for options in ({"case": "lower"}, {"form": "xml"}, {"min_genes": 9, "max_genes": 8}, {"min_genes": -1}):
        with pytest.raises(UsageError):
            preprocess_programs([gmt], tmp_path / "p.npz", genes=data, **options)
    with pytest.raises(UsageError):
        preprocess_programs([], tmp_path / "p.npz", genes=data)
    with pytest.raises(UsageError):
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data, varm_output=tmp_path / "p.npz")
    with pytest.raises(WriteError):
        preprocess_programs([gmt], tmp_path / "no" / "p.npz", genes=data)
    (tmp_path / "p.npz").write_text("mine")
    with pytest.raises(OutputExistsError):
        preprocess_programs([gmt], tmp_path / "p.npz", genes=data)
    assert (tmp_path / "p.npz").read_text() == "mine"


def test_dry_run_writes_nothing_and_reports_the_same(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", nested([13, 20]))
    plan = preprocess_programs([gmt], tmp_path / "p.npz", genes=data, dry_run=True)
    assert not list(tmp_path.glob("p.npz*"))
    assert preprocess_programs([gmt], tmp_path / "p.npz", genes=data) == plan


def test_bytes_are_equal_and_the_history_says_what_was_done(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", nested([13, 20]))
    for name in ("a.npz", "b.npz"):
        preprocess_programs([gmt], tmp_path / name, genes=data)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    header, _ = read_npz(tmp_path / "a.npz", kind="programs")
    record = header["history"][0]
    assert record["verb"] == "preprocess programs"
    assert record["parameters"]["min_genes"] == 13
    assert [one["name"] for one in record["inputs"]] == ["s.gmt", "d.h5ad"]
    assert (tmp_path / "a.npz.run.json").exists()


def test_the_mask_can_travel_in_the_data(tmp_path, data):
    gmt = write_gmt(tmp_path / "s.gmt", nested([13, 20]))
    preprocess_programs([gmt], tmp_path / "p.npz", genes=data, varm_output=tmp_path / "v.h5ad")
    adata = anndata.read_h5ad(tmp_path / "v.h5ad")
    programs = load_programs(tmp_path / "p.npz")
    np.testing.assert_array_equal(adata.varm[keys.PROGRAMS_VARM].toarray(), programs.mask.toarray())
    assert list(adata.uns[keys.PROGRAM_NAMES]) == ["S13", "S20"]
    assert json.loads(adata.uns[keys.HISTORY])[-1]["verb"] == "preprocess programs"


SHARED = Path(os.environ.get("SCMAP_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(("name", "matched", "case"), [("pbmc_multistudy", 2886, "exact"), ("zeisel", 1304, "upper")])
def test_reactome_overlaps_as_documented(tmp_path, name, matched, case):
    gmt = SHARED / "genesets" / "c2.cp.reactome.v4.0.symbols.gmt"
    report = preprocess_programs([gmt], tmp_path / "p.npz", genes=SHARED / "rna" / f"{name}.h5ad")
    assert (report["sets_read"], report["set_genes"], report["set_genes_in_data"]) == (674, 6025, matched)
    assert report["case"] == case
