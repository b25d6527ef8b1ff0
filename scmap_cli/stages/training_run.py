"""How every stage that trains begins: outputs and options checked, processes and device found, the record opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scmap_cli.config import TrainConfig, as_dict
from scmap_cli.errors import UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.runtime import provenance
from scmap_cli.stages.inputs import plain_records
from scmap_cli.stages.model_dir import Training, check_resume, check_target, quiet_followers
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.distributed import ranks_from_environment


@contextmanager
def training_run(
    model: str,
    output: Path,
    config: Any,
    settings: TrainConfig,
    *,
    inputs: Sequence[Path | None],
    parameters: Mapping[str, Any],
    batch_key: str | None,
    seed: int,
    device: str,
    resume: str,
    metrics: Path | None,
    force: bool,
    dry_run: bool,
    one_process: bool = False,
) -> Iterator[tuple[Training, provenance.Run]]:
    """What a stage trains with, and the record of its run, which is written when the block ends.

    Parameters
    ----------
    model
        Its name.
    output
        The model directory.
    config, settings
        Of the model and of the training.
    inputs
        Files whose digests the record keeps; None stands for one that was not given.
    parameters
        What the record keeps beside ``config`` and ``settings``.
    batch_key
        ``obs`` column of the conditions.
    seed, device, resume, metrics, force, dry_run
        As :func:`scmap_cli.stages.train_expimap.train_expimap`.
    one_process
        Whether the model does not train in several.

    Raises
    ------
    UsageError, OutputExistsError, DeviceError
        Before the block begins: an option makes no sense, an output is there, a device is not.
    """
    check_resume(resume)
    check_target(output, force, resume)
    check_outputs(metrics, force=force)
    ranks = ranks_from_environment()
    if one_process and ranks.world > 1:
        raise UsageError(f"{model} trains in one process", "run it without torchrun or srun")
    quiet_followers(ranks)
    target = resolve_device(device, ranks.local_rank)
    record = {"model": model, **parameters, "model_config": as_dict(config), "train_config": as_dict(settings)}
    with (
        provenance.run(
            f"train {model}",
            inputs=[path for path in inputs if path is not None],
            output=output if ranks.first and not dry_run else None,
            parameters=plain_records(record),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        yield Training(output, config, settings, batch_key, seed, target, ranks, resume, force, metrics), run
