"""The data that travels with the project: small, raw, and fit for the demo."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[1] / "examples" / "data"


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    return anndata.read_h5ad(DATA / "pbmc3k_slice.h5ad")


def programs() -> dict[str, list[str]]:
    rows = [line.split("\t") for line in (DATA / "immune_programs.gmt").read_text(encoding="utf-8").splitlines()]
    assert len({row[0] for row in rows}) == len(rows)
    return {name: genes for name, _, *genes in rows}


def test_size() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir() if path.is_file()) < 3_000_000


def test_slice_is_raw_counts(cells: anndata.AnnData) -> None:
    assert cells.shape == (2700, 4520)
    assert cells.X.dtype == np.uint16
    assert cells.X.data.min() >= 1
    assert cells.obs_names.is_unique
    assert cells.var_names.is_unique
    assert sum(name.startswith("MT-") for name in cells.var_names) == 13


def test_programs_overlap_the_slice(cells: anndata.AnnData) -> None:
    held = set(cells.var_names)
    sizes = {name: len(set(genes) & held) for name, genes in programs().items()}
    assert len(sizes) == 40
    assert min(sizes.values()) >= 13
    assert all(len(set(genes)) == len(genes) <= 40 for genes in programs().values())


def test_marker_labels_follow_their_markers(cells: anndata.AnnData) -> None:
    """A known marker is found more often in the cells of its class than elsewhere."""
    for label, gene in (("T cell", "CD3D"), ("B cell", "MS4A1"), ("NK cell", "GNLY"), ("CD14 monocyte", "CD14")):
        found = np.asarray((cells[:, gene].X > 0).todense()).ravel()
        inside = (cells.obs["marker_label"] == label).to_numpy()
        assert found[inside].mean() > 3 * found[~inside].mean()
