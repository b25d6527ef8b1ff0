"""expiMap against the paper's equations: membership, proximal steps, loss, inactive programs, configuration."""

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.errors import UsageError
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig
from scmap_cli.nn.noise import Noise

MASK = sparse.csc_matrix(np.random.default_rng(0).random((20, 4)) < 0.3)


def build(n_conditions: int = 2, **options: object) -> ExpiMap:
    config = ExpiMapConfig(**({"hidden": (8,), "dropout": 0.0} | options))  # type: ignore[arg-type]
    return ExpiMap.create(config, MASK, n_conditions, seed=1).double()


def store(n: int = 12) -> CsrStore:
    x = np.random.default_rng(1).poisson(1.0, (n, 20)).astype(np.float64)
    return CsrStore(sparse.csr_matrix(x), np.arange(n) % 2, torch.float64)


def step(model: ExpiMap, times: int = 1, lr: float = 0.05, progress: float = 1e9) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for i in range(times):
        batch = store().batch(torch.arange(12), Noise(i, 12, 0, torch.device("cpu")), progress)
        optimizer.zero_grad()
        model.loss(batch).total.backward()
        optimizer.step()
        model.after_step(lr, progress)


def test_hard_membership_leaves_nothing_outside_a_program() -> None:
    model = build(group_lasso=0.1)
    step(model, 20)
    w = model.decoder_weights().numpy()
    assert (w[MASK.toarray() == 0] == 0).all()
    assert (w[MASK.toarray() != 0] != 0).any()
    np.testing.assert_array_equal(model.membership().numpy(), MASK.toarray())


def test_soft_membership_starts_free_and_is_pulled_to_zero_outside() -> None:
    outside = MASK.toarray() == 0
    model = build(membership="soft", soft_l1=0.0, group_lasso=0.0)
    assert (model.decoder_weights().numpy()[outside] != 0).all()
    assert model.outside_share_inactive() == 0.0
    pulled = build(membership="soft", soft_l1=50.0, group_lasso=0.0)
    step(pulled, 1)
    w = pulled.decoder_weights().numpy()
    assert (w[outside] == 0).all()
    assert (w[~outside] != 0).all()
    assert pulled.outside_share_inactive() == 1.0


def test_the_l1_weight_rises_with_progress() -> None:
    model = build(membership="soft", soft_l1=1.0, group_lasso=0.0, l1_anneal_epochs=10.0)
    before = model.programs(0).soft_gk.detach().clone()
    model.after_step(0.1, progress=0.0)
    torch.testing.assert_close(model.programs(0).soft_gk.detach(), before)
    model.after_step(0.1, progress=5.0)
    outside = model.membership() == 0
    expected = (before.abs() - 0.05).clamp_min(0) * before.sign()
    torch.testing.assert_close(model.programs(0).soft_gk.detach()[outside], expected[outside])
    torch.testing.assert_close(model.programs(0).soft_gk.detach()[~outside], before[~outside])


def test_a_strong_group_lasso_deactivates_programs_but_not_those_of_weight_zero() -> None:
    config = ExpiMapConfig(hidden=(8,), group_lasso=1e3)
    model = ExpiMap.create(config, MASK, 2, seed=0, omega_k=np.array([1, 0, 1, 1]))
    model.after_step(0.1, 1e9)
    assert model.active().tolist() == [False, True, False, False]


@pytest.mark.parametrize("membership", ["hard", "soft"])
def test_hard_and_soft_shrink_the_same_columns_alike(membership: str) -> None:
    model = build(membership=membership, soft_l1=0.0, group_lasso=2.0)
    before = model.decoder_weights().clone()
    model.after_step(0.1, 1e9)
    factor = (1 - 0.2 / before.norm(dim=0)).clamp_min(0)
    torch.testing.assert_close(model.decoder_weights(), before * factor)


def test_unconstrained_programs_take_both_penalties() -> None:
    model = build(unconstrained=2, unconstrained_l1=0.5, group_lasso=1.0)
    before = model.programs(0).free_gu.detach().clone()
    model.after_step(0.1, 1e9)
    thresholded = (before.abs() - 0.05).clamp_min(0) * before.sign()
    expected = thresholded * (1 - 0.1 / thresholded.norm(dim=0)).clamp_min(0)
    torch.testing.assert_close(model.programs(0).free_gu.detach(), expected)
    assert model.decoder_weights().shape == (20, 6)


def test_the_loss_is_equation_7() -> None:
    model = build(unconstrained=1, kl_weight=0.3, kl_anneal_epochs=10.0, hsic=2.0)
    batch = store().batch(torch.arange(12), Noise(0, 12, 0, torch.device("cpu")), progress=5.0)
    out = model.loss(batch)
    parts = out.parts
    assert out.total.item() == pytest.approx((parts["recon"] + 0.15 * parts["kl"] + 2 * parts["hsic"]).item())
    assert out.score.item() == pytest.approx((parts["recon"] + 0.3 * parts["kl"] + 2 * parts["hsic"]).item())


def test_reconstruction_is_the_negative_binomial_of_the_decoder() -> None:
    model = build()
    batch = store().batch(torch.arange(12))
    posterior = model._posterior(batch)
    logits = posterior.mean_nz @ model.decoder_weights().T + model.condition_bg[batch.condition_n]
    mu = torch.softmax(logits, 1) * batch.size_n[:, None]
    theta = model.log_theta_bg.exp()[batch.condition_n]
    counts = torch.distributions.NegativeBinomial(theta, logits=(mu / theta).log(), validate_args=False)
    expected = -counts.log_prob(batch.dense(batch.value_m)).sum(1).mean()
    assert model.loss(batch).parts["recon"].item() == pytest.approx(expected.item())


def test_mse_sees_log1p_cp10k_of_counts_or_values_as_they_are() -> None:
    batch = store().batch(torch.arange(12))
    x = batch.dense(batch.value_m)
    counts = build(likelihood="mse")
    log1p_ng = torch.log1p(x / x.sum(1, keepdim=True) * 1e4)
    torch.testing.assert_close(batch.dense(counts._input(batch)), log1p_ng)
    as_is = build(likelihood="mse", input_scale="as-is")
    torch.testing.assert_close(as_is._input(batch), batch.value_m)
    recon = counts.loss(batch).parts["recon"]
    output = counts.decode(counts._posterior(batch).mean_nz, batch.condition_n)
    assert recon.item() == pytest.approx(((log1p_ng - output) ** 2).sum(1).mean().item())


def test_dispersion_and_shift_belong_to_the_condition() -> None:
    model = build(n_conditions=2)
    batch = store().batch(torch.tensor([0, 2, 4]))
    before = model.loss(batch).total.item()
    with torch.no_grad():
        model.log_theta_bg[1] += 1
        model.condition_bg[1] += torch.arange(20.0)
        model.encoder.condition_bh[1] += 1
    assert model.loss(batch).total.item() == before
    assert model.loss(store().batch(torch.tensor([1, 3]))).total.item() != before


def test_an_inactive_program_has_its_prior() -> None:
    model = build()
    with torch.no_grad():
        model.programs(0).member_e[model.programs(0).pattern.program_e == 2] = 0
    posterior = model.embed(store().batch(torch.arange(5)))
    assert (posterior.mean_nz[:, 2] == 0).all()
    assert (posterior.var_nz[:, 2] == 1).all()
    assert (posterior.mean_nz[:, 0] != 0).all()


def test_hsic_stays_finite_beyond_343_programs() -> None:
    mask = sparse.csc_matrix(np.eye(400, dtype=np.uint8))
    model = ExpiMap.create(ExpiMapConfig(hidden=(8,), unconstrained=1), mask, 1, seed=0)
    x = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (6, 400)).astype(np.float32))
    batch = CsrStore(x, np.zeros(6)).batch(torch.arange(6), Noise(0, 6, 0, torch.device("cpu")))
    model.loss(batch).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_annealing_takes_at_most_half_of_a_short_run() -> None:
    model = build(kl_anneal_epochs=100.0, l1_anneal_epochs=5.0)
    model.shorten_annealing(20)
    assert (model.kl_anneal_epochs, model.l1_anneal_epochs, model.anneal_epochs) == (10, 5, 10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"likelihood": "zinb"}, "likelihood"),
        ({"mean": "relu"}, "mean"),
        ({"membership": "fuzzy"}, "membership"),
        ({"hidden": ()}, "hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"group_lasso": -1.0}, "group_lasso"),
        ({"input_scale": "as-is"}, "needs raw counts"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ExpiMapConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("membership", ["hard", "soft"])
def test_what_one_step_could_have_made_is_switched_off_at_the_end(membership: str) -> None:
    model = build(membership=membership, unconstrained=1, group_lasso=0.7)
    block = model.programs(0)
    weights = block.soft_gk if membership == "soft" else block.member_e
    column = torch.arange(4).expand(20, 4) if membership == "soft" else block.pattern.program_e
    with torch.no_grad():
        weights.fill_(0.5)
        weights[(column == 1) | (column == 2)] = 0.9e-3
        block.free_gu.fill_(0.9e-3)
        block.omega_k[2] = 0.0
    model.finished(1e-3)
    assert model.active().tolist() == [True, False, True, True, False]
    kept = build(membership=membership, group_lasso=0.0)
    with torch.no_grad():
        (kept.programs(0).soft_gk if membership == "soft" else kept.programs(0).member_e).fill_(1e-6)
    kept.finished(1e-3)
    assert kept.active().all()
