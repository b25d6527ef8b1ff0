"""Donors: a cell without a second modality borrows from the cell with it that is most like it by the first.

Nearest-neighbour hot-deck imputation (Chen, Shao, J. Official Statistics 16, 2000), in the space of an encoder. What a
cell's first modality lets one expect of the second is a mean, and means lie nearer to one another than cells do: cells
encoded without the second modality gather where few cells with it are. A single donor's encoding has the spread of
such cells, where the mean of many has not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST = 10_000
"""Most donors that are kept, and most of the other cells."""

_SMOOTHED, _AROUND, _FEWEST_AROUND = 20, 50, 5
# Of few cells fewer are looked at: one and every hundredth donor, one and every fiftieth of all cells, at most.
_DONORS_A_NEIGHBOUR, _CELLS_A_NEIGHBOUR = 100, 50
# Donors that are each other's neighbours have the same centre: the cell's own distance decides among them.
_TIE = 1e-3
# Encodings that differ by less, beside their length, are of the same cell.
_SAME = 1e-4
# Rows of distances that are held at a time.
_BLOCK = 512


class Donors(nn.Module):
    """Cells with both modalities that lend their encodings, and other cells that tell where there are none like it.

    Parameters
    ----------
    donors, others
        How many there are; one donor or more.
    latent
        Dimensions of the encodings.
    """

    def __init__(self, donors: int, others: int, latent: int) -> None:
        super().__init__()
        self.donors = donors
        self.register_buffer("blind_bz", torch.zeros(donors + others, latent))
        self.register_buffer("smooth_dz", torch.zeros(donors, latent))
        self.register_buffer("seeing_dz", torch.zeros(donors, latent))
        self.blind_bz: Tensor
        self.smooth_dz: Tensor
        self.seeing_dz: Tensor

    @torch.no_grad()
    def fill(self, blind_bz: Tensor, seeing_dz: Tensor) -> None:
        """Take over encodings by the first modality alone, of donors and then of others, and by both, of donors."""
        self.blind_bz.copy_(blind_bz)
        self.seeing_dz.copy_(seeing_dz)
        donors_dz = self.blind_bz[: self.donors]
        self.smooth_dz.copy_(torch.cat([self._centre(_far(x_nz, donors_dz)) for x_nz in donors_dz.split(_BLOCK)]))

    @torch.no_grad()
    def lent(self, blind_nz: Tensor) -> tuple[Tensor, Tensor]:
        """What cells borrow: the encoding of the donor of each, (n, z), and how far to trust it, (n,), from 0 to 1.

        The donor is the one whose neighbourhood among donors has the centre nearest to that of the cell's (20
        neighbours, fewer of less than 1,900 donors), as single encodings by one modality are noisy. It is trusted as
        far as donors are among the cells around (50, fewer of less than 2,450): fully where their share is that among
        all kept cells or more, and not at all where there are none; where all kept cells are donors, fully. No cell
        that is kept itself borrows from itself or counts among those around it.

        Parameters
        ----------
        blind_nz
            Encodings by the first modality alone.
        """
        donor_n, trust_n = [], []
        total = len(self.blind_bz)
        around = min(max(_FEWEST_AROUND, 1 + total // _CELLS_A_NEIGHBOUR), _AROUND, max(total - 1, 1))
        for rows_nz in blind_nz.split(_BLOCK):
            far_nb = _far(rows_nz, self.blind_bz)
            centre_nz = self._centre(far_nb[:, : self.donors])
            nearest_n = far_nb.argmin(1)
            apart_n = (rows_nz - self.blind_bz[nearest_n]).norm(dim=1)
            # One donor must be left.
            itself_n = (apart_n <= _SAME * rows_nz.norm(dim=1)) & (self.donors > 1)
            far_nb[itself_n, nearest_n[itself_n]] = torch.inf
            near_nk = far_nb.topk(around, dim=1, largest=False).indices
            found_n = (near_nk < self.donors).to(blind_nz.dtype).mean(1)
            trust_n.append((found_n * (total / self.donors)).clamp_max(1.0))
            centre_nd = _far(centre_nz, self.smooth_dz)
            donor_n.append((centre_nd.square() + _TIE * far_nb[:, : self.donors].square()).argmin(1))
        return self.seeing_dz[torch.cat(donor_n)], torch.cat(trust_n)

    def _centre(self, far_nd: Tensor) -> Tensor:
        """The centre of each cell's nearest donors, (n, z), by the distances of all."""
        count = min(_SMOOTHED, 1 + self.donors // _DONORS_A_NEIGHBOUR)
        return self.blind_bz[far_nd.topk(count, dim=1, largest=False).indices].mean(1)


def _far(x_nz: Tensor, of_kz: Tensor) -> Tensor:
    """Distances in float64, as rounding must not decide which donor is the nearest."""
    return torch.cdist(x_nz.double(), of_kz.double())
