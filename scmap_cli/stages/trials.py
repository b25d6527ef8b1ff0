"""Trials before a training, saved as they end: a run that is stopped among them goes on with the one it was at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scmap_cli.config import TrainConfig
from scmap_cli.data.batches import Store
from scmap_cli.errors import StoppedError
from scmap_cli.io.bundle import CHECKPOINTS
from scmap_cli.models.base import ScmapModel
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.signals import StopFlag
from scmap_cli.stages.model_dir import Training, same_run
from scmap_cli.training.checkpoint import TRIALS, Checkpoint
from scmap_cli.training.loop import Trainer


class Trials:
    """Short trainings of one run, in all of its processes together, as its own training is.

    Every value is that of the first process, so that all processes go on with the same.

    Parameters
    ----------
    training
        The run.
    identity
        What must be the same for trials of an earlier start to count.
    stop
        Asked for the whole run.
    """

    def __init__(self, training: Training, identity: dict[str, Any], stop: StopFlag) -> None:
        self.training, self.ranks, self.stop = training, training.ranks, stop
        self._saved = Checkpoint(training.output / CHECKPOINTS / TRIALS, identity)
        go_on = training.resume == "auto" and self._saved.exists() and same_run(self._saved, training.force)
        # Nothing is removed while another process still reads it.
        self._values: dict[str, list[float]] = self.ranks.agree(self._saved.load()[1] if go_on else {})
        if not go_on and self.ranks.first:
            shutil.rmtree(self._saved.folder, ignore_errors=True)
            self._saved.save({}, self._values)

    def outcomes(self, name: str, weights: Sequence[float], trial: Callable[[float, Checkpoint], float]) -> list[float]:
        """What each weight leads to: as it was found before, else by ``trial``.

        Parameters
        ----------
        name
            Of the weight.
        weights
            To be tried, in this order.
        trial
            Gives the outcome of a weight; it is handed where to save itself.

        Raises
        ------
        StoppedError
            A signal came; what was found is saved.
        """
        values = self._values.setdefault(name, [])
        if values:
            log.info("%d of %d trials of the %s weight were made before", len(values), len(weights), name)
        for weight in weights[len(values) :]:
            own = Checkpoint(self._saved.folder / "now", self._saved.identity | {"trial": f"{name} {weight:g}"})
            found = trial(weight, own)
            if self.ranks.first:
                own.remove()
            values.append(self.ranks.agree(found))
            if self.ranks.first:
                self._saved.save({}, self._values)
            if self.ranks.any([self.stop.stopped], self.training.device)[0]:
                raise StoppedError(
                    f"stopped by {self.stop.signal_name or 'another rank'} after {len(values)} of {len(weights)} "
                    f"trials of the {name} weight, all saved",
                    "run the same command again to go on",
                )
        return values

    def train(
        self, network: ScmapModel, store: Store, rows: np.ndarray, settings: TrainConfig, checkpoint: Checkpoint
    ) -> dict[str, float]:
        """Train on the rows of a store, or go on with it; the last row of its history."""
        trainer = Trainer(
            network, store, rows, rows[:0], settings,
            seed=self.training.seed, ranks=self.ranks, checkpoint=checkpoint, stop=self.stop,
        )  # fmt: skip
        return trainer.fit(resume=True).history[-1]
