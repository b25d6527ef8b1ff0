"""A simulated data set and a model trained on it, shared by the tests of the stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from scmap_cli.stages.simulate import simulate_rna
from scmap_cli.stages.train_expimap import train_expimap


@dataclass(frozen=True)
class Trained:
    data: Path
    programs: Path
    model: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    made = Trained(folder / "sim.h5ad", folder / "programs.npz", folder / "model")
    simulate_rna(made.data, preset="tiny", programs_output=made.programs)
    options = {"epochs": 30, "batch_size": 32}
    train_expimap(
        made.data,
        made.model,
        programs=made.programs,
        batch_key="batch",
        model_options={"hidden": [32]},
        train_options=options,
    )
    return made
