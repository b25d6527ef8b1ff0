import json

import anndata
import numpy as np
import pytest

from scmap_cli import keys
from scmap_cli.data.simulation import TRUTH
from scmap_cli.errors import OutputExistsError, UsageError
from scmap_cli.io.programs import load_programs
from scmap_cli.stages.preprocess_programs import preprocess_programs
from scmap_cli.stages.simulate import simulate_rna


def test_outputs_agree_with_each_other(tmp_path):
    summary = simulate_rna(
        tmp_path / "d.h5ad",
        preset="tiny",
        programs_output=tmp_path / "p.npz",
        gmt_output=tmp_path / "p.gmt",
        stimulated=0.5,
        seed=2,
    )
    adata = anndata.read_h5ad(tmp_path / "d.h5ad")
    programs = load_programs(tmp_path / "p.npz")
    assert adata.shape == (summary["cells"], summary["genes"]) == (300, 200)
    np.testing.assert_array_equal(adata.varm[keys.PROGRAMS_VARM].toarray(), programs.mask.toarray())
    truth = json.loads(adata.uns[TRUTH])
    assert truth["parameters"]["seed"] == 2
    assert truth["active_programs"] == summary["active_programs"]
    assert json.loads(adata.uns[keys.HISTORY])[0]["verb"] == "simulate rna"
    preprocess_programs([tmp_path / "p.gmt"], tmp_path / "q.npz", genes=tmp_path / "d.h5ad")
    again = load_programs(tmp_path / "q.npz")
    np.testing.assert_array_equal(again.mask.toarray(), programs.mask.toarray())
    np.testing.assert_array_equal(again.programs, programs.programs)


def test_same_options_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        simulate_rna(tmp_path / f"{name}.h5ad", preset="tiny", programs_output=tmp_path / f"{name}.npz", seed=1)
    for suffix in ("h5ad", "npz"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_options_replace_the_presets_values(tmp_path):
    summary = simulate_rna(tmp_path / "a.h5ad", preset="tiny", n_cells=50, n_batches=1, noise_genes=0)
    assert summary["cells"] == 50
    assert summary["parameters"]["noise_genes"] == 0
    assert simulate_rna(tmp_path / "b.h5ad", dry_run=True)["parameters"]["n_cells"] == 2000
    assert not (tmp_path / "b.h5ad").exists()


def test_bad_options_write_nothing(tmp_path):
    with pytest.raises(UsageError):
        simulate_rna(tmp_path / "a.h5ad", preset="huge")
    with pytest.raises(UsageError):
        simulate_rna(tmp_path / "a.h5ad", preset="tiny", overlap=2.0)
    with pytest.raises(UsageError):
        simulate_rna(tmp_path / "a.h5ad", preset="tiny", gmt_output=tmp_path / "a.h5ad")
    with pytest.raises(UsageError, match="2 cells cannot hold"):
        simulate_rna(tmp_path / "a.h5ad", preset="tiny", n_cells=2, n_types=5, dry_run=True)
    (tmp_path / "p.gmt").write_text("mine")
    with pytest.raises(OutputExistsError):
        simulate_rna(tmp_path / "a.h5ad", preset="tiny", gmt_output=tmp_path / "p.gmt")
    assert [path.name for path in tmp_path.iterdir()] == ["p.gmt"]
