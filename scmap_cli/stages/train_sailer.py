"""``scmap train sailer``: read peak counts, train the invariant VAE, publish its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scmap_cli.config import TrainConfig, build
from scmap_cli.data.splits import validation_split
from scmap_cli.models.sailer import Sailer, SailerConfig
from scmap_cli.stages.inputs import RnaInput
from scmap_cli.stages.peak_training import PeakJob, PeakOptions, prepare_peaks, train_on_peaks
from scmap_cli.stages.weight_search import find_weights

DEFAULTS = {
    "epochs": 100,
    "batch_size": 400,
    "adam_eps": 1e-8,
    "weight_decay": 5e-4,
    "patience": 10,
    "lr_patience": 5,
    "sampling": "shuffle",
}
"""Training settings that differ from those of :class:`~scmap_cli.config.TrainConfig`: the weight decay is the
thesis's, the batch size that of its released code."""


def train_sailer(
    input: Path,
    output: Path,
    *,
    batch_key: str | None = None,
    depth_key: str | None = None,
    covariates: Sequence[str] = (),
    layer: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: str = "auto",
    metrics: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train SAILER on cells x peaks and write the model directory.

    Parameters
    ----------
    input
        Counts or 0/1 of peaks or bins, h5ad or another form that ``train expimap`` reads; anything above 0 is open.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    batch_key
        ``obs`` column of the batches; None means one batch.
    depth_key
        ``obs`` column of sequencing depth (fragments a cell); None takes the number of open peaks.
    covariates
        Further ``obs`` columns that the decoder is told, so that the embedding need not carry them.
    layer
        Where the counts are, when not in the usual places.
    model_options, train_options
        Fields of :class:`~scmap_cli.models.sailer.SailerConfig` and :class:`~scmap_cli.config.TrainConfig` that differ
        from the defaults.
    seed, device, resume, metrics, force, dry_run
        As :func:`scmap_cli.stages.train_expimap.train_expimap`.

    Returns
    -------
    dict
        The contents of ``metrics.json``; for a dry run the plan.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    settings = build(TrainConfig, DEFAULTS, train_options or {}, where="[train]")
    config = build(SailerConfig, model_options or {}, where="[model]")
    input = Path(input)

    def prepare(data: RnaInput) -> PeakJob:
        job = prepare_peaks(
            data, input, batch_key, depth_key, covariates,
            lambda codes: validation_split(codes, settings.validation_share, seed),
        )  # fmt: skip
        return PeakJob(job, {"n_conditions": len(job.conditions), "n_covariates": job.n_covariates})

    options = PeakOptions(
        input, Path(output), batch_key, layer, settings, seed, device, resume, metrics, force, dry_run
    )
    parameters = {"depth_key": depth_key, "covariates": list(covariates)}
    search = partial(find_weights, Sailer, config)
    return train_on_peaks(Sailer, config, options, parameters, prepare, search)
