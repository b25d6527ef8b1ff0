"""How ``scmap map-query`` carries labels of the reference over to a query, in a space made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scmap_cli.data.batches import Store
from scmap_cli.errors import InputError, UsageError
from scmap_cli.metrics.transfer import (
    Transfer,
    decoder_space,
    discriminant_space,
    leading_components,
    transfer_labels,
)
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.models.refine import refined_positions
from scmap_cli.runtime.logs import log
from scmap_cli.stages.query_inputs import Cells

SPACES = ("discriminant", "decoder", "latent")
"""Where neighbours for labels are looked for."""


@dataclass(frozen=True)
class LabelSearch:
    """Settings of the search; :func:`scmap_cli.stages.map_query.map_query` says what each does.

    Raises
    ------
    UsageError
        A value is out of its range; the flag is named.
    """

    space: str
    components: int
    refine: int
    neighbors: int
    unknown_below: float

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise UsageError(f"--space is {self.space!r}", f"choose one of {', '.join(SPACES)}")
        for name, least in (("components", 0), ("refine", 0), ("neighbors", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} {getattr(self, name)} must be at least {least}")
        if not 0 <= self.unknown_below <= 1:
            raise UsageError(f"--unknown-below {self.unknown_below} is not in [0, 1]")

    def carry(
        self,
        network: ExpiMap,
        model_dir: Path,
        labels: np.ndarray,
        cells: Sequence[Cells],
        stores: Sequence[Store],
        seed: int,
    ) -> tuple[Transfer, str]:
        """Labels of the query and the space that they were found in.

        Parameters
        ----------
        network
            The mapped model, whose decoder says what distinguishes cells in expression.
        model_dir
            What an error names.
        labels
            (cells of the reference,) text, empty where missing.
        cells, stores
            Query and reference, in this order, embedded.
        seed
            Of the neighbours.

        Raises
        ------
        InputError
            No program of the model is active.
        """
        w_gk = network.decoder_weights().cpu().numpy()
        if not w_gk.any():
            raise InputError(f"no program of {model_dir} is active, so cells cannot be told apart")
        query_nz, reference_nz = (
            refined_positions(network, store, one.mean_nz, self.refine)
            for one, store in zip(cells, stores, strict=True)
        )
        if self.space != "latent":
            shift_free = network.config.likelihood == "nb" and network.config.mean == "softmax"
            reference_nz, query_nz = (decoder_space(z, w_gk, shift_free) for z in (reference_nz, query_nz))
        if self.components:
            reference_nz, query_nz = leading_components(reference_nz, query_nz, self.components)
        used = self.space
        if used == "discriminant":
            both_nz = discriminant_space(reference_nz, labels, query_nz)
            if both_nz is None:
                used = "decoder"
                log.warning(
                    "the reference has no two labels of several cells, none of three, or no spread within them: "
                    "what sets labels apart cannot be told, and neighbours are found as by --space decoder"
                )
            else:
                reference_nz, query_nz = both_nz
        found = transfer_labels(
            reference_nz, labels, query_nz, k=self.neighbors, threshold=self.unknown_below, seed=seed
        )
        return found, used
