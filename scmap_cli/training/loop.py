"""The training loop of every model: epochs of seeded batches, validation, early stopping, checkpoints, stop signals.

It knows the protocol in :mod:`scmap_cli.models.base` and nothing of the models. All randomness is a function of the
seed and the position in the run (:mod:`scmap_cli.nn.noise`), so a run that is stopped and resumed gives the bits of
one that was not.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scmap_cli.config import PretrainConfig, TrainConfig
from scmap_cli.data.batches import Store
from scmap_cli.errors import DivergedError, StoppedError, UsageError, WriteError
from scmap_cli.models.base import LossOutput, ScmapModel
from scmap_cli.nn.noise import Noise, mixed_seed
from scmap_cli.runtime.logs import log, progress
from scmap_cli.runtime.memory import keep_freed_memory
from scmap_cli.runtime.signals import StopFlag
from scmap_cli.training.checkpoint import Checkpoint, pack_optimizer, unpack_optimizer
from scmap_cli.training.distributed import Ranks
from scmap_cli.training.optimizer import RowAdam, make_optimizer

# What a cosine leaves of the learning rate at the end.
_LAST_RATE = 0.1


@dataclass
class Progress:
    """Where a run stands; JSON values only, saved with every checkpoint."""

    epoch: int = 0
    step: int = 0
    lr: float = 0.0
    pace: float = 1.0  # of the last step: the share of ``lr`` that warm-up and schedule let through
    best_score: float = math.inf
    best_epoch: int = 0
    bad_epochs: int = 0
    bad_since_cut: int = 0
    finished: bool = False
    sums: dict[str, list[float]] = field(default_factory=dict)  # of the epoch so far, a value a rank
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """What a run did: history rows, the epoch whose weights the model holds, wall seconds and work of each epoch."""

    history: list[dict[str, float]]
    best_epoch: int
    stopped_early: bool
    epoch_seconds: list[float]
    cells_per_epoch: int
    work: list[dict[str, float]]


class Trainer:
    """Trains one model on one store.

    Parameters
    ----------
    model
        On ``device`` already.
    store
        All cells; ``train_rows`` and ``valid_rows`` index into it.
    config
        Settings.
    seed
        Seed of order and noise.
    ranks
        This process among all.
    checkpoint
        Where to save, or None to save nothing; signals then do what they do without a training.
    stop
        A flag that is watched already; None watches signals for the time of the training.
    """

    def __init__(
        self,
        model: ScmapModel,
        store: Store,
        train_rows: np.ndarray,
        valid_rows: np.ndarray,
        config: TrainConfig,
        *,
        seed: int,
        ranks: Ranks | None = None,
        checkpoint: Checkpoint | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        self.model, self.store, self.seed = model, store, seed
        self.config = config if isinstance(config, PretrainConfig) else PretrainConfig(**asdict(config))
        self.train_rows = train_rows
        # A loss that looks across the cells of a batch needs a mix of them, and files are often sorted by sample.
        self.valid_rows = store.order(valid_rows, mixed_seed(seed, "valid"), "shuffle")
        self.ranks = ranks or Ranks()
        self.checkpoint, self.stop = checkpoint, stop
        self.device = next(model.parameters()).device
        if len(train_rows) < self.ranks.world:
            raise UsageError(f"{len(train_rows)} training cells are too few for {self.ranks.world} processes")
        parts = self.ranks.world * self.config.accumulate
        self.batch_size = max(1, min(config.batch_size, len(train_rows) // parts))
        self.batches = min(self.config.accumulate, len(train_rows) // (self.batch_size * self.ranks.world))
        whole = self.batch_size * self.ranks.world * self.batches
        # A model that must see every cell gets batches of nearly equal size, none larger than was asked for.
        self.steps = -(-len(train_rows) // whole) if model.every_cell else max(1, len(train_rows) // whole)
        model.shorten_annealing(config.epochs)
        self.optimizer = make_optimizer(model, self.config)
        # Clipping, adding up and exchanging gradients ask for dense ones.
        model.sparse_gradients = isinstance(self.optimizer, RowAdam) and parts == 1 and not self.config.grad_clip
        self.state = Progress(lr=config.lr)
        self.best: dict[str, Tensor] = {}
        self.safe: dict[str, Tensor] = {}
        self.epoch_seconds: list[float] = []
        self.work: list[dict[str, float]] = []
        self.loss_of: torch.nn.Module = model
        if self.config.compile:
            model.compile_parts()
        if self.ranks.world > 1:
            self.loss_of = DistributedDataParallel(model, broadcast_buffers=False)
        self._saved_at = time.monotonic()

    def fit(self, resume: bool = False) -> FitResult:
        """Train until the epochs are done or the score stops improving; the model ends with its best weights.

        Raises
        ------
        StoppedError
            A signal came; the checkpoint was saved.
        DivergedError
            The loss became non-finite; the last finite weights are in the checkpoint folder.
        """
        if resume and self.checkpoint is not None and self.checkpoint.exists():
            self._restore(self.checkpoint)
        keep_freed_memory()
        self.safe = self._copy()
        try:
            self._epochs()
            self._save_finished()
        finally:
            # Its reducer must be gone before the process group is; see distributed.process_group.
            self.loss_of = self.model
        config, state = self.config, self.state
        if self.best:
            self.model.load_state_dict(self.best)
            self.model.loaded()
        self.model.finished(config.lr)
        cells = self._edges(self.steps - 1)[-1]
        best_epoch = state.best_epoch or state.epoch
        return FitResult(state.history, best_epoch, state.epoch < config.epochs, self.epoch_seconds, cells, self.work)

    def _epochs(self) -> None:
        config, state = self.config, self.state
        # Where nothing is saved, nothing is gained by a slower end.
        watched = nullcontext(self.stop) if self.stop is not None else StopFlag(saves=self.checkpoint is not None)
        with watched as stop, progress("epoch", config.epochs) as bar:
            bar.done = state.epoch
            while state.epoch < config.epochs and not state.finished:
                self._epoch(stop)
                row = state.history[-1]
                bar.advance(1, f"loss {row['train_loss']:.4g}" + _shown(row.get("valid_loss")))
            if state.epoch < config.epochs and state.finished:
                log.info("early stop after epoch %d; best epoch %d", state.epoch, state.best_epoch)

    def _epoch(self, stop: StopFlag) -> None:
        state, config = self.state, self.config
        started = time.perf_counter()
        seed = mixed_seed(self.seed, "order", state.epoch)
        rows = torch.from_numpy(self.store.order(self.train_rows, seed, config.sampling))
        self.work.append({})
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=self.device))
        for name, values in state.sums.items():
            sums[name] = torch.tensor(self.ranks.share(values), dtype=torch.float64, device=self.device)
        while state.step < self.steps:
            for output in self._step(rows):
                for name, part in {"train_loss": output.total.detach(), **output.parts}.items():
                    sums[name] += part / self.batches
                for name, amount in output.work.items():
                    self.work[-1][name] = self.work[-1].get(name, 0.0) + amount
            state.step += 1
            due = time.monotonic() - self._saved_at > 60 * config.checkpoint_minutes
            stopped, due = self.ranks.any([stop.stopped, due], self.device)
            if stopped or due:
                state.sums = dict(zip(sums, self.ranks.gather(torch.stack(list(sums.values()))), strict=True))
                self._save()
            if stopped:
                who = stop.signal_name or "another rank"
                raise StoppedError(
                    f"stopped by {who} in epoch {state.epoch + 1}, checkpoint saved",
                    "run the same command again to go on",
                )
        self._end_epoch(sums)
        self.epoch_seconds.append(time.perf_counter() - started)

    def _step(self, rows: Tensor) -> list[LossOutput]:
        """One step of the optimiser; the losses of the batches whose gradients it adds up."""
        state, world = self.state, self.ranks.world
        edges = self._edges(state.step)
        position = state.epoch + state.step / self.steps
        seed = mixed_seed(self.seed, "train", state.epoch, state.step)
        self._set_pace(position)
        self.optimizer.zero_grad(set_to_none=True)
        outputs = []
        for number in range(self.batches):
            first, last = edges[number * world + self.ranks.rank :][:2]
            noise = Noise(seed, edges[-1] - edges[0], first - edges[0], self.device)
            batch = self.store.batch(rows[first:last], noise, position)
            with self._shared_at(last=number == self.batches - 1):
                with self._precision():
                    output: LossOutput = self.loss_of(batch)
                (output.total / self.batches).backward()
            outputs.append(output)
        (bad,) = self.ranks.any([not all(math.isfinite(o.total.item()) for o in outputs)], self.device)
        if bad:
            self._diverged(next((o for o in outputs if not math.isfinite(o.total.item())), outputs[0]))
        if self.config.grad_clip > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.model.after_step(state.lr * state.pace, position)
        return outputs

    def _set_pace(self, position: float) -> None:
        """Warm-up, cosine and the model scale the learning rate of a step, whatever a plateau has made of it."""
        config = self.config
        done = (self.state.epoch * self.steps + self.state.step + 1) / (config.epochs * self.steps)
        pace = self.model.lr_share(position)
        if done < config.warmup:
            pace *= done / config.warmup
        elif config.schedule == "cosine":
            fall = (done - config.warmup) / (1.0 - config.warmup)
            pace *= _LAST_RATE + (1.0 - _LAST_RATE) * (1.0 + math.cos(math.pi * fall)) / 2
        self.state.pace = pace
        self._set_lr(self.state.lr)

    def _shared_at(self, last: bool) -> Any:
        """Gradients are exchanged with the other ranks once a step, with the last of its batches."""
        return nullcontext() if last or self.ranks.world == 1 else self.loss_of.no_sync()  # type: ignore[operator]

    def _edges(self, step: int) -> list[int]:
        """First rows of the batches of a step, those of all ranks before the next, and the end of the last."""
        parts = self.ranks.world * self.batches
        start, end = step * self.batch_size * parts, (step + 1) * self.batch_size * parts
        if self.model.every_cell:
            start, end = (len(self.train_rows) * at // self.steps for at in (step, step + 1))
        return [start + (end - start) * i // parts for i in range(parts + 1)]

    def _precision(self) -> Any:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean score and parts over the validation cells, with noise that is the same every epoch."""
        names: list[str] = []
        sums = torch.zeros(8, dtype=torch.float64, device=self.device)
        size = self.model.most_cells
        for number, start in enumerate(range(0, len(self.valid_rows), size)):
            if number % self.ranks.world != self.ranks.rank:
                continue
            rows = torch.from_numpy(self.valid_rows[start : start + size])
            noise = _SampleOnly(mixed_seed(self.seed, "valid", number), len(rows), 0, self.device)
            with self._precision():
                output = self.model.loss(self.store.batch(rows, noise))
            parts = {"valid_loss": output.score, **{f"valid_{k}": v for k, v in output.parts.items()}}
            names = list(parts)
            for i, value in enumerate(parts.values()):
                sums[i] += value.double() * len(rows)
        if self.ranks.world > 1:
            # A rank without a validation batch still takes part, so the names come from a rank that has one.
            gathered: list[Any] = [None] * self.ranks.world
            torch.distributed.all_gather_object(gathered, names)
            names = max(gathered, key=len)
        self.ranks.sum(sums)
        return {name: float(sums[i]) / len(self.valid_rows) for i, name in enumerate(names)}

    def _end_epoch(self, sums: dict[str, Tensor]) -> None:
        state, config = self.state, self.config
        totals = self.ranks.sum(torch.stack(list(sums.values()))) / (self.steps * self.ranks.world)
        row = {"epoch": state.epoch + 1, **dict(zip(sums, totals.tolist(), strict=True))}
        if len(self.valid_rows):
            row |= self.validate()
        row["lr"] = state.lr * state.pace
        state.history.append(row)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
        finite = all(bool(torch.isfinite(p).all()) for p in self.model.parameters())
        if not finite or not all(math.isfinite(v) for v in row.values()):
            self._diverged(None, row)
        self._keep()
        if not len(self.valid_rows):
            return
        # Until the annealing ends the penalties are weak: an epoch of then would not be the model that was asked for.
        if state.epoch <= self.model.anneal_epochs:
            return
        if row["valid_loss"] < state.best_score:
            state.best_score, state.best_epoch = row["valid_loss"], state.epoch
            state.bad_epochs = state.bad_since_cut = 0
            self.best = self.safe
        else:
            state.bad_epochs += 1
            state.bad_since_cut += 1
        if config.patience and state.bad_epochs >= config.patience:
            state.finished = True
        if config.lr_patience and state.bad_since_cut > config.lr_patience:
            state.bad_since_cut = 0
            self._set_lr(state.lr * config.lr_factor)

    def _set_lr(self, lr: float) -> None:
        self.state.lr = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr * self.state.pace

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _keep(self) -> None:
        """Keep the weights as the last finite ones, in the place of the former unless these are the best."""
        if self.safe is self.best:
            self.safe = self._copy()
            return
        for name, tensor in self.model.state_dict().items():
            self.safe[name].copy_(tensor)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self.checkpoint is None or not self.ranks.first:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= pack_optimizer(self.model, self.optimizer)
        self.checkpoint.save(tensors, self.state.__dict__ | {"best_score": _jsonable(self.state.best_score)})

    def _save_finished(self) -> None:
        """Save what is about to be published; where that fails the directory may still be written."""
        try:
            self._save()
        except WriteError as error:
            log.warning("the finished training could not be saved: %s", error)

    def _restore(self, checkpoint: Checkpoint) -> None:
        tensors, saved = checkpoint.load()
        self.state = Progress(**saved | {"best_score": float(saved["best_score"])})
        pick = {p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in ("model.", "best.")}
        self.model.load_state_dict(pick["model."])
        self.model.loaded()
        self.best = {k: v.to(self.device) for k, v in pick["best."].items()}
        unpack_optimizer(self.model, self.optimizer, tensors)
        self._set_lr(self.state.lr)
        log.info("resumed in epoch %d, step %d", self.state.epoch + 1, self.state.step)

    def _diverged(self, output: LossOutput | None, row: dict[str, float] | None = None) -> None:
        parts = {k: float(v) for k, v in output.parts.items()} if output else dict(row or {})
        bad = [name for name, value in parts.items() if not math.isfinite(value)] or ["the gradient"]
        kept = ""
        if self.checkpoint is not None and self.ranks.first:
            last = Checkpoint(self.checkpoint.folder / "last-finite", self.checkpoint.identity)
            last.save(self.safe, {"epoch": len(self.state.history)})
            kept = f"; the last finite weights are in {last.path}"
        raise DivergedError(
            f"training diverged in epoch {self.state.epoch + (row is None)}: {', '.join(bad)} became non-finite{kept}",
            f"lower --lr (now {self.state.lr:g}) or set --grad-clip 1",
        )


class _SampleOnly(Noise):
    """Noise that samples the latent variables but drops no units and hides no counts: validation sees all there are.

    Rows are chosen as in training, the same ones every epoch: a model of several modalities is judged with and without
    the one that it may lack.
    """

    hides = False

    def dropout(self, x: Tensor, share: float) -> Tensor:
        return x

    def kept(self, row_m: Tensor, most: float) -> Tensor:
        return torch.ones_like(row_m, dtype=torch.bool)

    def sample(self, total: int, share: float, device: torch.device) -> None:
        return None


def _shown(value: float | None) -> str:
    return "" if value is None else f" valid {value:.4g}"


def _jsonable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
