"""The loop: learning, bitwise resume at any step, true best weights, early stopping, divergence, stop signals."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from scmap_cli.errors import DivergedError, InputError, StoppedError, UsageError
from scmap_cli.models.expimap import ExpiMapConfig
from scmap_cli.training.checkpoint import Checkpoint
from scmap_cli.training.distributed import Ranks
from scmap_cli.training.loop import Trainer, _SampleOnly


def stop_after(trainer: Trainer, steps: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal during the step of that number."""
    original, count = trainer._step, 0

    def step(rows):  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        if count == steps:
            os.kill(os.getpid(), number)
        return original(rows)

    trainer._step = step  # type: ignore[method-assign]


def test_the_loss_falls_and_history_has_every_part(case) -> None:
    result = case.trainer(epochs=20).fit()
    assert [row["epoch"] for row in result.history] == list(range(1, 21))
    assert result.history[-1]["valid_loss"] < 0.98 * result.history[0]["valid_loss"]
    assert {"train_loss", "recon", "kl", "valid_loss", "valid_recon", "valid_kl", "lr"} <= result.history[0].keys()


def test_same_seed_same_bits_other_seed_other_bits(case, same) -> None:
    a, b, c = case.trainer(), case.trainer(), case.trainer(seed=1)
    histories = [t.fit().history for t in (a, b, c)]
    assert same(a.model, b.model)
    assert histories[0] == histories[1] != histories[2]
    assert not same(a.model, c.model)


def test_the_global_generator_is_left_alone(case) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    case.trainer(epochs=1).fit()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("steps", [1, 4, 5, 9, 17, 20])
def test_stopped_and_resumed_equals_straight(case, same, tmp_path: Path, steps: int) -> None:
    straight = case.trainer()
    expected = straight.fit()
    first = case.trainer(checkpoint=Checkpoint(tmp_path, {"seed": 0}))
    stop_after(first, steps)
    with pytest.raises(StoppedError, match="SIGTERM") as caught:
        first.fit()
    assert caught.value.exit_code == 75
    second = case.trainer(checkpoint=Checkpoint(tmp_path, {"seed": 0}))
    result = second.fit(resume=True)
    assert same(straight.model, second.model)
    assert result.history == expected.history
    assert result.best_epoch == expected.best_epoch


def test_a_finished_run_is_saved_before_it_is_published(case, same, tmp_path: Path) -> None:
    """The folder may fail to be written; the same command then has nothing left to train."""
    first = case.trainer(checkpoint=Checkpoint(tmp_path, {}))
    expected = first.fit()
    second = case.trainer(checkpoint=Checkpoint(tmp_path, {}))
    result = second.fit(resume=True)
    assert result.history == expected.history
    assert result.epoch_seconds == []
    assert same(first.model, second.model)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_other_signals_stop_too_and_handlers_come_back(case, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    trainer = case.trainer(checkpoint=Checkpoint(tmp_path, {}))
    stop_after(trainer, 2, number)
    with pytest.raises(StoppedError, match=signal.Signals(number).name):
        trainer.fit()
    assert signal.getsignal(number) is before


def test_soft_membership_and_unconstrained_programs_resume_too(case, same, tmp_path: Path) -> None:
    model = ExpiMapConfig(hidden=(16,), membership="soft", unconstrained=2, kl_anneal_epochs=2, l1_anneal_epochs=2)
    straight = case.trainer(model=model)
    straight.fit()
    first = case.trainer(model=model, checkpoint=Checkpoint(tmp_path, {}))
    stop_after(first, 7)
    with pytest.raises(StoppedError):
        first.fit()
    second = case.trainer(model=model, checkpoint=Checkpoint(tmp_path, {}))
    second.fit(resume=True)
    assert same(straight.model, second.model)


def test_time_checkpoints_are_written(case, same, tmp_path: Path) -> None:
    trainer = case.trainer(checkpoint=Checkpoint(tmp_path, {}), checkpoint_minutes=0.0)
    trainer.fit()
    resumed = case.trainer(checkpoint=Checkpoint(tmp_path, {}))
    resumed.fit(resume=True)
    assert same(trainer.model, resumed.model)


def test_a_checkpoint_of_another_run_names_the_key(case, tmp_path: Path) -> None:
    Checkpoint(tmp_path, {"train": {"lr": 0.1}}).save({"model.x": torch.zeros(1)}, {})
    with pytest.raises(UsageError, match=r"train\.lr was 0\.1 and is 0\.2"):
        Checkpoint(tmp_path, {"train": {"lr": 0.2}}).load()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_damaged_checkpoint_is_an_input_error(case, tmp_path: Path, keep: float) -> None:
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save({"model.x": torch.zeros(1000)}, {})
    data = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load()


def test_the_best_epoch_is_really_restored(case) -> None:
    trainer = case.trainer(epochs=12, lr=0.3, adam_eps=1e-8, patience=0, lr_patience=0)
    kept = []
    original = trainer._end_epoch

    def end(sums):  # type: ignore[no-untyped-def]
        original(sums)
        kept.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    trainer._end_epoch = end  # type: ignore[method-assign]
    result = trainer.fit()
    scores = [row["valid_loss"] for row in result.history]
    assert result.best_epoch == 1 + int(np.argmin(scores))
    assert scores[-1] != min(scores), "the case must get worse again for this test to say something"
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, kept[result.best_epoch - 1][name])
    assert trainer.validate()["valid_loss"] == min(scores)


def test_early_stopping_waits_for_the_annealing(case) -> None:
    trainer = case.trainer(epochs=40, lr=1e-12, patience=3, lr_patience=0)
    result = trainer.fit()
    assert result.stopped_early
    assert trainer.model.anneal_epochs + 3 <= len(result.history) < 40


def test_the_learning_rate_is_cut_on_a_plateau(case) -> None:
    history = case.trainer(epochs=16, lr=1e-12, patience=0, lr_patience=2, lr_factor=0.5).fit().history
    assert min(row["lr"] for row in history) < 1e-12


def test_a_non_finite_loss_stops_names_the_term_and_keeps_weights(case, tmp_path: Path) -> None:
    trainer = case.trainer(checkpoint=Checkpoint(tmp_path / "c", {}))
    original = trainer._step

    def step(rows):  # type: ignore[no-untyped-def]
        if trainer.state.epoch == 1 and trainer.state.step == 2:
            with torch.no_grad():
                trainer.model.log_theta_bg.fill_(float("nan"))  # type: ignore[union-attr,operator]
        return original(rows)

    trainer._step = step  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="epoch 2: recon") as caught:
        trainer.fit()
    assert caught.value.exit_code == 4
    tensors, _ = Checkpoint(tmp_path / "c" / "last-finite", {}).load()
    assert all(torch.isfinite(t).all() for t in tensors.values())


def test_balanced_and_plain_sampling_differ(case, same) -> None:
    a, b = case.trainer(sampling="balanced"), case.trainer(sampling="shuffle")
    a.fit(), b.fit()
    assert not same(a.model, b.model)


def test_bf16_trains_and_stays_close(case) -> None:
    exact, rough = case.trainer(), case.trainer(precision="bf16")
    a, b = exact.fit().history[-1], rough.fit().history[-1]
    assert a["valid_loss"] != b["valid_loss"]
    assert b["valid_loss"] == pytest.approx(a["valid_loss"], rel=0.02)


def test_gradient_clipping_acts(case, same) -> None:
    free, clipped = case.trainer(), case.trainer(grad_clip=1e-3)
    free.fit(), clipped.fit()
    assert not same(free.model, clipped.model)


def test_training_without_validation_keeps_the_last_weights(case) -> None:
    trainer = case.trainer(epochs=2)
    trainer.valid_rows = trainer.valid_rows[:0]
    result = trainer.fit()
    assert result.best_epoch == 2
    assert "valid_loss" not in result.history[0]


def test_validation_batches_are_a_mix_that_stays(case) -> None:
    a, b = case.trainer(), case.trainer()
    assert sorted(a.valid_rows) != list(a.valid_rows)
    assert list(a.valid_rows) == list(b.valid_rows)
    a.model.most_cells = 7
    assert a.validate() == a.validate()


def test_validation_hides_a_modality_and_no_counts() -> None:
    x = torch.zeros(400, 3)
    chosen = [_SampleOnly(5, 400, 0, x.device).chosen(0.3, x) for _ in range(2)]
    assert torch.equal(*chosen)
    assert 0.2 < chosen[0].float().mean() < 0.4
    assert _SampleOnly(5, 400, 0, x.device).kept(torch.arange(400), 0.9).all()


def test_no_epoch_of_the_annealing_is_the_best(case) -> None:
    """While the penalties rise, the model is not yet the one that was asked for."""
    trainer = case.trainer(epochs=8)
    told = iter([1.0, 2.0, 3.0, 4.0, 7.0, 6.0, 5.0, 8.0])
    trainer.validate = lambda: {"valid_loss": next(told)}  # type: ignore[method-assign]
    assert trainer.model.anneal_epochs == 4
    assert trainer.fit().best_epoch == 7


@pytest.mark.parametrize("world", [1, 3])
def test_a_model_that_must_see_every_cell_sees_each_once_an_epoch(case, world: int) -> None:
    seen: list[int] = []
    sizes: list[int] = []
    for rank in range(world):
        trainer = case.trainer(epochs=1, batch_size=16)
        trainer.model.every_cell = True
        trainer.ranks = Ranks(rank, world)
        whole = 16 * world
        trainer.steps = -(-len(trainer.train_rows) // whole)
        for step in range(trainer.steps):
            edges = trainer._edges(step)
            seen += range(edges[rank], edges[rank + 1])
            sizes.append(edges[rank + 1] - edges[rank])
            assert edges[-1] - edges[0] <= whole
    assert sorted(seen) == list(range(len(trainer.train_rows)))
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 2


def test_only_then_are_odd_cells_part_of_an_epoch(case, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = case.trainer(epochs=1)
    total = len(plain.train_rows)
    assert total % 32 != 0
    assert plain.fit().cells_per_epoch == total // 32 * 32
    monkeypatch.setattr(type(plain.model), "every_cell", True)
    whole = case.trainer(epochs=1)
    assert whole.fit().cells_per_epoch == total
    assert whole.steps == plain.steps + 1
