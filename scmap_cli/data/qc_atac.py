"""Quality of ATAC cells, from tallies of their fragments.

- ``n_fragments``: fragments on any chromosome, one a row of the file.
- ``frip``: share of the fragments that overlap a peak.
- ``tss_enrichment``: ENCODE's definition. Cuts around all start sites are added up from 2,000 bases before to 2,000
  after; the density at the centre (the middle 11 bases, as single cells have few cuts) is divided by that of the outer
  100 bases on both sides. 0.1 is added to the latter, so that cells without a cut there have a value.
- ``promoter_ratio``: share of the fragments that overlap the 1,000 bases on either side of a start site.
- ``nucleosome_signal``: fragments of 147 to 294 bases for each one below 147 (Signac, Stuart et al. 2021,
  doi:10.1038/s41592-021-01282-5).
- ``pct_fragments_mt``: percentage of the fragments on mitochondrial chromosomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scmap_cli.data.counting import CENTRE, FLANK, TALLIES
from scmap_cli.data.regions import Regions, index_regions

_CENTRE_HALF, _OUTER, _FLANK_WIDTH, _PROMOTER = 5, 2000, 100, 1000
_FLOOR = 0.1


def tss_regions(tss: pd.DataFrame, chroms: Sequence[str]) -> tuple[Regions, Regions]:
    """Promoters, and centres and flanks of start sites.

    Parameters
    ----------
    tss
        ``chrom`` and ``position``.
    chroms
        Names by code.
    """
    windows = (
        (-_CENTRE_HALF, _CENTRE_HALF + 1),
        (-_OUTER, -_OUTER + _FLANK_WIDTH),
        (_OUTER - _FLANK_WIDTH + 1, _OUTER + 1),
    )
    labels = np.repeat([CENTRE, FLANK, FLANK], len(tss))
    around = pd.concat([_window(tss, *window) for window in windows], ignore_index=True)
    return index_regions(_window(tss, -_PROMOTER, _PROMOTER + 1), chroms), index_regions(around, chroms, labels)


def _window(tss: pd.DataFrame, before: int, after: int) -> pd.DataFrame:
    place = tss["position"].to_numpy()
    return pd.DataFrame({"chrom": tss["chrom"].to_numpy(), "start": place + before, "end": place + after})


def cell_quality(sums: np.ndarray, peaks: bool, tss: bool) -> pd.DataFrame:
    """Columns of the cells' table.

    Parameters
    ----------
    sums
        (n, 8) int64, columns :data:`~scmap_cli.data.counting.TALLIES`.
    peaks, tss
        Whether the features are peaks, and whether start sites were given.

    Returns
    -------
    DataFrame
        n rows: ``n_fragments`` int64, the others float32; 0 for a cell without fragments.
    """
    tally = dict(zip(TALLIES, sums.T, strict=True))
    total = np.maximum(tally["fragments"], 1)
    columns: dict[str, np.ndarray] = {"n_fragments": tally["fragments"]}
    if peaks:
        columns["frip"] = tally["in_features"] / total
    if tss:
        centre = tally["tss_centre"] / (2 * _CENTRE_HALF + 1)
        columns["tss_enrichment"] = centre / (tally["tss_flank"] / (2 * _FLANK_WIDTH) + _FLOOR)
        columns["promoter_ratio"] = tally["in_promoters"] / total
    columns["nucleosome_signal"] = tally["mono"] / np.maximum(tally["short"], 1)
    columns["pct_fragments_mt"] = 100 * tally["mito"] / total
    return pd.DataFrame({k: v if k == "n_fragments" else v.astype(np.float32) for k, v in columns.items()})
