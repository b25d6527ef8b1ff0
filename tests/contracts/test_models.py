"""What every registered model promises; adding a model to the registry adds it here.

A model joins by a maker in :data:`MAKERS` that gives a small instance and the store it trains on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.config import TrainConfig, as_dict
from scmap_cli.data.batches import Store
from scmap_cli.data.features import align, apply
from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.data.simulation import simulate_rna_data
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import InputError, StoppedError, UsageError
from scmap_cli.io.bundle import SCHEMA_VERSION
from scmap_cli.keys import PROGRAMS_VARM
from scmap_cli.models.base import ScmapModel
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig
from scmap_cli.models.expresser import Expresser, ExpresserConfig
from scmap_cli.models.markermap import MarkerMap, MarkerMapConfig
from scmap_cli.models.sailer import Sailer, SailerConfig
from scmap_cli.models.sailerx import SailerX, SailerXConfig
from scmap_cli.registry import MODELS, get_model
from scmap_cli.training.checkpoint import Checkpoint
from scmap_cli.training.infer import embed_cells, restore_model
from scmap_cli.training.loop import Trainer


class Made:
    """A small model with its data."""

    def __init__(
        self,
        model: ScmapModel,
        counts: sparse.csr_matrix,
        codes: np.ndarray,
        genes: np.ndarray,
        covariates: np.ndarray | None = None,
        reference: np.ndarray | None = None,
        settings: dict[str, float] | None = None,
        epochs: int = 15,
    ) -> None:
        self.settings = settings or {}
        self.model, self.counts, self.codes, self.genes, self.covariates = model, counts, codes, genes, covariates
        self.reference = reference
        self.epochs = epochs

    def store(self, dtype: torch.dtype = torch.float32, rows: np.ndarray | None = None) -> Store:
        pick = np.arange(len(self.codes)) if rows is None else rows
        told = {
            "covariates": None if self.covariates is None else self.covariates[pick],
            "reference": None if self.reference is None else self.reference[pick],
            "weights": None if self.reference is None else np.linspace(0, 2, len(pick)),
        }
        return self.model.make_store(self.counts[pick], self.codes[pick], dtype, **told)

    def trainer(self, checkpoint: Checkpoint | None = None, epochs: int = 6) -> Trainer:
        held = validation_split(self.codes, 0.1, 0)
        config = TrainConfig(epochs=epochs, batch_size=64, checkpoint_minutes=60.0, **self.settings)  # type: ignore[arg-type]
        rows = np.flatnonzero(~held), np.flatnonzero(held)
        return Trainer(self.model, self.store(), *rows, config, seed=0, checkpoint=checkpoint)


def expimap(**options: object) -> Made:
    data = simulate_rna_data(
        n_cells=240, n_genes=80, n_programs=6, n_types=3, n_batches=2, genes_per_program=8, noise_genes=10,
        active_per_type=2, seed=2,
    )  # fmt: skip
    codes = data.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    config = ExpiMapConfig(**({"hidden": (16, 16), "kl_anneal_epochs": 2} | options))  # type: ignore[arg-type]
    model = ExpiMap.create(config, sparse.csc_matrix(data.varm[PROGRAMS_VARM]), 2, seed=0)
    return Made(model, data.X, codes, data.var_names.to_numpy().astype(str))


def sailer(share: float = 0.08, **options: object) -> Made:
    rng = np.random.default_rng(4)
    kind, codes = rng.integers(3, size=240), rng.integers(2, size=240)
    profile = rng.random((3, 90)) ** 3
    chance = profile[kind] * rng.lognormal(0, 0.5, 240)[:, None] * (1 + codes[:, None]) * share / 0.35
    counts = sparse.csr_matrix((rng.random((240, 90)) < chance).astype(np.int16))
    depth = np.log1p(np.asarray(counts.sum(1)))
    covariates = (depth - depth.mean()) / depth.std()
    config = SailerConfig(**({"hidden": (16, 12), "latent": 4, "warmup_epochs": 1.0, "cycle_epochs": 1.0} | options))  # type: ignore[arg-type]
    model = Sailer.create(config, np.asarray(counts.mean(0)).ravel(), n_conditions=2, n_covariates=1, seed=0)
    return Made(model, counts, codes, np.array([f"chr1:{i}-{i + 1}" for i in range(90)]), covariates)


def sailerx(**options: object) -> Made:
    made = sailer()
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(240, 6)) + 3 * rng.normal(size=(3, 6))[rng.integers(3, size=240)]
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    reference[rng.random(240) < 0.3] = 0
    small = {"hidden": (8, 6), "latent": 4, "warmup_epochs": 1.0, "cycle_epochs": 1.0, "alignment_weight": "30"}
    config = SailerXConfig(**(small | options))  # type: ignore[arg-type]
    sizes = {"chromosome_peaks": [40, 1, 49], "n_conditions": 2, "n_covariates": 1, "n_reference": 6}
    weights = {"gamma": config.gamma(), "agreement": config.agreement(True), "unit": config.unit(True)}
    weights |= {"shortcut": not config.agreement(True), "lending": config.lending(True)}
    model = SailerX.create(config, np.asarray(made.counts.mean(0)).ravel(), seed=0, **weights, **sizes)
    genes = np.array([f"chr{i}:{j}-{j + 1}" for i, n in enumerate((40, 1, 49)) for j in range(n)])
    return Made(model, made.counts, made.codes, genes, made.covariates, reference)


def expresser(**options: object) -> Made:
    rng = np.random.default_rng(5)
    kind, codes = rng.integers(3, size=240), rng.integers(2, size=240)
    rate = np.exp(rng.normal(-0.5, 1.0, (3, 90)))[kind] * rng.lognormal(0, 0.4, 240)[:, None]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    config = ExpresserConfig(**({"preset": "tiny", "width": 16, "layers": 1, "draws": 2} | options))  # type: ignore[arg-type]
    model = Expresser.create(config, 90, counts.nnz / 240, 4.0, seed=0)
    return Made(model, counts, codes, np.array([f"g{i}" for i in range(90)]), epochs=4)


def markermap(**options: object) -> Made:
    data = simulate_rna_data(
        n_cells=240, n_genes=80, n_programs=6, n_types=3, n_batches=2, genes_per_program=8, noise_genes=10,
        active_per_type=2, seed=2,
    )  # fmt: skip
    codes = data.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    config = MarkerMapConfig(**({"k": 8, "width": 16, "latent": 4, "anneal_epochs": 10.0} | options))  # type: ignore[arg-type]
    scaling = fit_scaling(log1p_cp10k(data.X))
    model = MarkerMap.create(config, scaling, 3, 0, forced_in=np.array([5]), forced_out=np.array([6, 7]))
    names = data.var_names.to_numpy().astype(str)
    return Made(model, data.X, codes, names, settings={"lr": 5e-3, "adam_eps": 1e-8})


MAKERS: dict[str, Callable[[], Made]] = {
    "expimap": expimap,
    "expimap soft": lambda: expimap(membership="soft", unconstrained=2),
    "expimap mse": lambda: expimap(likelihood="mse"),
    "expimap softplus": lambda: expimap(mean="softplus"),
    "expimap exp": lambda: expimap(mean="exp"),
    "markermap": markermap,
    "markermap free": lambda: markermap(logits="free", direct_share=0.0),
    "markermap unsupervised": lambda: markermap(mode="unsupervised"),
    "markermap free unsupervised": lambda: markermap(logits="free", mode="unsupervised"),
    "markermap joint": lambda: markermap(mode="joint", rebuild_by="gaussian", loss_scale="sum"),
    "sailer": sailer,
    "expresser": expresser,
    "expresser without decoder": lambda: expresser(decoder=False),
    "expresser as written": lambda: expresser(leaky=True, residual=False, binning="quantile"),
    "sailer sampled": lambda: sailer(thinning=0.5, peak_share="0.5"),
    "sailerx": sailerx,
    # By its linear part the alignment is good at once.
    "sailerx apart": lambda: sailerx(reference_agreement="0", unit_length="no", alignment_weight="3"),
    "sailerx thesis": lambda: sailerx(reference_dropout=1.0, peak_share="0.5", invariance_bound="mixture"),
    "sailer dense": lambda: sailer(share=0.3, positive_weight="auto", invariance_bound="mixture"),
}


def test_every_registered_model_is_here() -> None:
    assert {name.split()[0] for name in MAKERS} == set(MODELS)
    with pytest.raises(UsageError, match="unknown model 'expimapp'"):
        get_model("expimapp")


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[], Made]:
    return MAKERS[request.param]


def test_declares_itself(make: Callable[[], Made]) -> None:
    model = make().model
    spec = MODELS[model.name]
    assert spec.load() is type(model)
    assert isinstance(model.config, model.config_type)
    assert "embed" in model.capabilities
    assert json.loads(json.dumps(model.structure)) == model.structure


def test_a_finite_loss_falls(make: Callable[[], Made]) -> None:
    made = make()
    history = made.trainer(epochs=made.epochs).fit().history
    assert all(np.isfinite(list(row.values())).all() for row in history)
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]


def test_saved_and_loaded_gives_equal_outputs(make: Callable[[], Made]) -> None:
    made = make()
    made.trainer(epochs=2).fit()
    made.model.keep(made.store(), 0)
    tensors = {k: v.numpy().copy() for k, v in made.model.state_dict().items()}
    config = {
        "schema_version": SCHEMA_VERSION,
        "model_config": as_dict(made.model.config),
        "structure": made.model.structure,
    }
    again = restore_model(type(made.model), config, tensors, torch.device("cpu"))
    for a, b in zip(embed_cells(made.model, made.store()), embed_cells(again, made.store()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tensors_that_do_not_fit_are_an_input_error(make: Callable[[], Made]) -> None:
    made = make()
    config = {
        "schema_version": SCHEMA_VERSION,
        "model_config": as_dict(made.model.config),
        "structure": made.model.structure | {f"n_{made.model.features}": 7},
    }
    tensors = {k: v.numpy() for k, v in made.model.state_dict().items()}
    with pytest.raises(InputError, match="do not fit"):
        restore_model(type(made.model), config, tensors, torch.device("cpu"))


def test_same_seed_gives_equal_bytes(make: Callable[[], Made]) -> None:
    states = []
    for _ in range(2):
        made = make()
        made.trainer(epochs=2).fit()
        made.model.keep(made.store(), 0)
        states.append({k: v.numpy().tobytes() for k, v in made.model.state_dict().items()})
    assert states[0] == states[1]


def test_resumed_equals_straight(make: Callable[[], Made], tmp_path: Path) -> None:
    straight, broken, resumed = make(), make(), make()
    straight.trainer().fit()
    trainer = broken.trainer(Checkpoint(tmp_path, {}))
    original = trainer._step

    def step(rows):  # type: ignore[no-untyped-def]
        if trainer.state.epoch == 2 and trainer.state.step == 1:
            trainer._save()
            raise StoppedError("in the middle")
        return original(rows)

    # As after a signal, the sums of the epoch so far are in the checkpoint only when the loop saves; a crash loses
    # them, # so weights are compared, not the history of that epoch.
    trainer._step = step  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        trainer.fit()
    resumed.trainer(Checkpoint(tmp_path, {})).fit(resume=True)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_cell_does_not_depend_on_its_neighbours(make: Callable[[], Made]) -> None:
    made = make()
    made.trainer(epochs=2).fit()
    made.model.keep(made.store(), 0)
    whole = embed_cells(made.model, made.store())[0]
    np.testing.assert_allclose(embed_cells(made.model, made.store(), batch_size=7)[0], whole, rtol=1e-4, atol=1e-5)
    pick = np.array([200, 3, 77])
    np.testing.assert_allclose(embed_cells(made.model, made.store(rows=pick))[0], whole[pick], rtol=1e-4, atol=1e-5)


def test_permuted_genes_give_the_same_embedding(make: Callable[[], Made]) -> None:
    made = make()
    expected = embed_cells(made.model, made.store())[0]
    order = np.random.default_rng(0).permutation(len(made.genes))
    shuffled, names = made.counts[:, order].tocsr(), made.genes[order]
    shown = apply(shuffled, align(names, made.genes))
    store = made.model.make_store(shown, made.codes, reference=made.reference)
    np.testing.assert_array_equal(embed_cells(made.model, store)[0], expected)


def test_cpu_equals_float64(make: Callable[[], Made]) -> None:
    made = make()
    made.trainer(epochs=2).fit()
    made.model.keep(made.store(), 0)
    rows = torch.arange(100)
    single = made.model.loss(made.store().batch(rows))
    embedded = made.model.embed(made.store().batch(rows))
    double = made.model.double()
    exact = double.loss(made.store(torch.float64).batch(rows))
    assert single.total.item() == pytest.approx(exact.total.item(), rel=1e-4)
    for name, value in exact.parts.items():
        assert single.parts[name].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-4)
    exact_embedded = double.embed(made.store(torch.float64).batch(rows))
    torch.testing.assert_close(embedded.mean_nz.double(), exact_embedded.mean_nz, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(embedded.var_nz.double(), exact_embedded.var_nz, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_gpu_equals_cpu(make: Callable[[], Made]) -> None:
    made = make()
    made.trainer(epochs=2).fit()
    made.model.keep(made.store(), 0)
    rows = torch.arange(100)
    expected = made.model.loss(made.store().batch(rows)).total.item()
    embedded = made.model.embed(made.store().batch(rows)).mean_nz
    device = torch.device("cuda")
    found = made.model.to(device).loss(made.store().to(device).batch(rows)).total.item()
    assert found == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(
        made.model.embed(made.store().to(device).batch(rows)).mean_nz.cpu(), embedded, rtol=1e-3, atol=1e-4
    )
