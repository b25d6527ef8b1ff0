"""The gene filter of the MarkerMap paper: whole names, and shares of classes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scmap_cli.data.gene_filter import general_genes, markermap_filter


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("mitochondrial", "MT-CO1 mt-Nd1 MT-ND4L"),
        ("ribosomal", "RPS6 Rpl13a RPS4X RPS4Y1 RPL22L1 RPL36AL RPLP0 RPSA Rps3a1 rps27l"),
        ("heat shock", "HSPA1A Hspb1 Hsp90ab1 HSPD1 Hspe1 HSPA12A"),
        ("MHC", "HLA-A HLA-DRB1 H2-K1 H2-Ab1"),
        ("", "Mtor Mtch1 MT1X MTRNR2L1 Rps6ka1 RPS6KB1 RPS19BP1 HSPG2 HSPBP1 HSPBAP1 H2AFZ HLADQA1 XRPS6"),
    ],
)
def test_general_genes_are_known_by_their_whole_names(kind, names):
    assert general_genes(names.split()).tolist() == [kind] * len(names.split())


def test_filter_is_that_of_dense_shares():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 200)
    counts = rng.poisson(rng.gamma(0.7, 1.0, (4, 150))[codes])
    names = [f"G{i}" for i in range(150)]
    names[3], names[4], names[5] = "mt-Nd1", "Mtor", "Gapdh"
    kept, steps = markermap_filter(sp.csr_matrix(counts.astype(np.float32)), names, codes, ["GAPDH"])
    shares = np.array([(counts[codes == code] > 0).mean(axis=0) for code in range(4)])
    truth = (shares >= 0.3).any(axis=0) & ~((shares >= 0.75).sum(axis=0) >= 2)
    truth[[3, 5]] = False
    np.testing.assert_array_equal(kept, truth)
    assert steps["general: mitochondrial"] == steps["house-keeping"] == 1
    assert sum(steps.values()) == (~kept).sum()
    assert 10 < kept.sum() < 140
