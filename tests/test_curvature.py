"""Curvature of models whose spectrum is known in closed form: products, eigenvalues, densities, mini-batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import windtunnel as wt
from windtunnel.errors import InputError

CURVE = wt.curvature
SPECTRUM = (9.0, 4.0, 1.0, 0.5, 0.25, 0.0, -2.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bowl(nn.Module):
    """Weights in two tensors, so that flattening is tested; loss(w) = w' Q diag(spectrum) Q' w / 2."""

    def __init__(self, spectrum=SPECTRUM):
        super().__init__()
        values = torch.tensor(spectrum, dtype=torch.float64)
        turn, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=seeded(), dtype=torch.float64))
        self.register_buffer("matrix", turn @ torch.diag(values) @ turn.mT)
        self.first = nn.Parameter(torch.randn(2, generator=seeded(1), dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(len(spectrum) - 2, 1, generator=seeded(2), dtype=torch.float64))

    def forward(self) -> Tensor:
        weights = torch.cat([self.first, self.second.flatten()])
        return weights @ self.matrix @ weights / 2


def bowl_loss(model, batch):
    return batch * model()


def perceptron(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def classes(examples=20, seed=3):
    generator = seeded(seed)
    inputs = torch.randn(examples, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (examples,), generator=generator)


def entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def outputs(model, batch):
    return model(batch[0])


def entropy_of(out, batch):
    return F.cross_entropy(out, batch[1])


def slopes(model, batch):
    return CURVE.gradient(model, entropy, batch)


def moved(model: nn.Module, by: Tensor) -> nn.Module:
    other = perceptron()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()]) + by
    nn.utils.vector_to_parameters(flat, other.parameters())
    return other


def test_hessian_is_the_matrix_of_a_quadratic_and_the_mean_over_batches():
    model = Bowl()
    found = CURVE.hessian(model, bowl_loss, [1.0, 3.0]).dense()
    torch.testing.assert_close(found, 2 * model.matrix)


def test_hessian_product_is_the_finite_difference_of_gradients():
    model, batch = perceptron(), classes()
    operator = CURVE.hessian(model, entropy, [batch])
    vector = torch.randn(operator.size, generator=seeded(5), dtype=torch.float64)
    step = 1e-5 * vector
    difference = (slopes(moved(model, step), batch) - slopes(moved(model, -step), batch)) / 2e-5
    torch.testing.assert_close(operator.multiply(vector), difference, rtol=1e-6, atol=1e-8)


def test_gauss_newton_is_the_hessian_of_a_linear_model_but_not_of_a_perceptron():
    linear, batch = nn.Linear(5, 3).double(), classes()
    whole = CURVE.hessian(linear, entropy, [batch]).dense()
    torch.testing.assert_close(CURVE.gauss_newton(linear, outputs, entropy_of, [batch]).dense(), whole)
    bent = perceptron()
    matrix = CURVE.gauss_newton(bent, outputs, entropy_of, [batch]).dense()
    assert float((matrix - CURVE.hessian(bent, entropy, [batch]).dense()).norm() / matrix.norm()) > 0.05
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12


def test_gauss_newton_of_cross_entropy_is_the_mean_outer_product_of_sampled_gradients():
    """The Fisher matrix: over all labels, weighed by the model's own probabilities."""
    model, (inputs, labels) = perceptron(), classes(examples=4)
    fisher = torch.zeros(CURVE.hessian(model, entropy, [(inputs, labels)]).size, dtype=torch.float64).diag()
    for x in inputs:
        for label, p in enumerate(F.softmax(model(x), -1).detach()):
            slope = slopes(model, (x[None], torch.tensor([label])))
            fisher += p * torch.outer(slope, slope) / len(inputs)
    torch.testing.assert_close(CURVE.gauss_newton(model, outputs, entropy_of, [(inputs, labels)]).dense(), fisher)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, at import
def test_products_equal_those_of_curvlinops():
    """An independent library; it is no dependency, so the test runs where somebody installed it (3.0.1 measured)."""
    curvlinops = pytest.importorskip("curvlinops", reason="pip install curvlinops-for-pytorch to compare with it")
    model, batch = perceptron(), classes()
    ours = CURVE.hessian(model, entropy, [batch]), CURVE.gauss_newton(model, outputs, entropy_of, [batch])
    theirs = (curvlinops.HessianLinearOperator, curvlinops.GGNLinearOperator)
    for operator, make in zip(ours, theirs, strict=True):
        other = make(model, nn.CrossEntropyLoss(), list(model.parameters()), [batch])
        vector = torch.randn(operator.size, generator=seeded(), dtype=torch.float64)
        torch.testing.assert_close(operator.multiply(vector), other @ vector)


def test_curvature_follows_the_weights_and_leaves_them_and_their_gradients_alone():
    model, batch = perceptron(), classes()
    operator = CURVE.hessian(model, entropy, [batch])
    before, kept = operator.dense(), [p.clone() for p in model.parameters()]
    assert all(p.grad is None and torch.equal(p, k) for p, k in zip(model.parameters(), kept, strict=True))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    assert not torch.allclose(operator.dense(), before)


def test_both_iterations_find_the_top_eigenvalue_within_the_error_they_state():
    operator = CURVE.hessian(Bowl(), bowl_loss, [1.0])
    for iterate in (CURVE.top_eigenvalue, CURVE.power_iteration):
        for seed in range(5):
            found = iterate(operator, generator=seeded(seed), tolerance=1e-4)
            assert found.converged and abs(found.value - 9) <= found.error + 1e-9
            assert float((operator.multiply(found.vector) - found.value * found.vector).norm()) < 1e-2


def test_the_most_positive_is_not_the_largest_in_size():
    operator = CURVE.hessian(Bowl((-9.0, 4.0, 1.0, 0.5)), bowl_loss, [1.0])
    assert CURVE.top_eigenvalue(operator, generator=seeded()).value == pytest.approx(4, rel=1e-6)
    assert CURVE.power_iteration(operator, generator=seeded()).value == pytest.approx(-9, rel=1e-3)


def test_what_did_not_converge_says_so():
    near = CURVE.hessian(Bowl(tuple(np.linspace(0.9, 1.0, 200))), bowl_loss, [1.0])
    assert not CURVE.power_iteration(near, generator=seeded(), tolerance=1e-6, products=3).converged
    stopped = CURVE.top_eigenvalue(near, generator=seeded(), tolerance=1e-6, products=3)
    assert not stopped.converged and stopped.products == 3 and "not converged" in str(stopped)


def test_density_moments_are_traces_of_powers():
    """Exact where probes average out: over the probes' errors, and to rounding for a spectrum of one value."""
    operator = CURVE.hessian(Bowl(), bowl_loss, [1.0])
    density = CURVE.spectral_density(operator, generator=seeded(), probes=200, steps=10)
    for power in range(1, 5):
        mean, error = density.moment(power)
        assert abs(mean - np.mean(np.array(SPECTRUM) ** power)) < 4 * error
    assert density.largest == pytest.approx(9) and density.smallest == pytest.approx(-2)
    same = CURVE.spectral_density(CURVE.hessian(Bowl((3.0,) * 6), bowl_loss, [1.0]), generator=seeded(), probes=2)
    assert same.trace == pytest.approx(18) and same.nodes.shape == (2, 1)


def test_density_moments_of_each_probe_are_exact():
    operator = CURVE.hessian(Bowl(), bowl_loss, [1.0])
    start = torch.randn(7, generator=seeded(4), dtype=torch.float64)
    start = start / start.norm()
    found, vector = CURVE.lanczos(operator, start, 4), start
    for power in range(1, 8):  # up to 2 steps - 1
        vector = operator.multiply(vector)
        assert float(found.weights @ found.values**power) == pytest.approx(float(start @ vector), rel=1e-9)


def test_density_integrates_to_one_and_has_its_mass_at_the_eigenvalues():
    operator = CURVE.hessian(Bowl((5.0, 5.0, 5.0, 1.0)), bowl_loss, [1.0])
    density = CURVE.spectral_density(operator, generator=seeded(), probes=100)
    grid = np.linspace(-2, 8, 2001)
    shape = density.at(grid, width=0.1)
    assert np.trapezoid(shape, grid) == pytest.approx(1, abs=1e-6)
    assert density.share_beyond(3.0) == pytest.approx(0.75, abs=0.1)


def test_preconditioned_eigenvalues_are_those_of_the_inverse_times_the_matrix():
    model, batch = perceptron(), classes()
    operator = CURVE.hessian(model, entropy, [batch])
    diagonal = torch.rand(operator.size, generator=seeded(), dtype=torch.float64) + 0.1
    expected = np.sort(np.linalg.eigvals((operator.dense() / diagonal[:, None]).numpy()).real)
    found = np.linalg.eigvalsh(CURVE.preconditioned(operator, diagonal).dense().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-10)
    with pytest.raises(InputError, match="positive entries"):
        CURVE.preconditioned(operator, -diagonal)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("averaged", [False, True])
def test_stable_rate_parts_runs_that_shrink_from_runs_that_grow(momentum, averaged):
    """Descent with momentum on a quadratic, on either side of the rate."""
    for share, grows in ((0.97, False), (1.03, True)):
        rate = share * CURVE.largest_stable_rate(9.0, momentum=momentum, averaged=averaged)
        weight, mean = 1.0, 0.0
        for _ in range(2000):
            mean = momentum * mean + ((1 - momentum) if averaged else 1) * 9 * weight
            weight -= rate * mean
        assert (abs(weight) > 1) is grows
    assert math.isinf(CURVE.largest_stable_rate(-1.0))


def test_batch_sharpness_of_a_quadratic_is_its_rayleigh_quotient():
    model = Bowl()
    slope = CURVE.gradient(model, bowl_loss, 1.0)
    expected = float(slope @ model.matrix @ slope / (slope @ slope))
    assert CURVE.batch_sharpness(model, bowl_loss, [1.0, 1.0]) == pytest.approx(expected)


class Line(nn.Module):
    """Linear regression without targets: the Hessian of a batch is its second moment of inputs."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight


def test_the_eigenvalue_curve_of_random_inputs_has_its_plateau_at_their_dimension():
    """White Gaussian inputs of dimension d: lambda(B) = (1 + sqrt(d / B))^2, and d / B alone when B is far below d.

    Marchenko and Pastur's edge falls from d / B to 1, so that the fit's plateau lies within a small factor of d.
    """
    size, rng = 64, np.random.default_rng(0)
    model = Line(size)
    curve = CURVE.eigenvalue_curve(
        lambda batch: CURVE.hessian(model, lambda m, x: m(x).square().mean() / 2, [batch]),
        lambda count, number: torch.from_numpy(rng.standard_normal((count, size))).float(),
        [1, 4, 16, 64, 256, 1024],
        draws=6,
    )
    edge = (1 + np.sqrt(size / np.array(curve.batches))) ** 2
    np.testing.assert_allclose(curve.mean[2:], edge[2:], rtol=0.1)  # the law is of large batches and dimensions
    fit = CURVE.inflation(curve.batches, curve.values)
    assert size / 4 < fit.plateau < size * 4 and fit.plateau_low < fit.plateau < fit.plateau_high
    assert curve.unconverged == 0


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_inflation_recovers_both_terms_and_its_slope_bends_at_the_plateau(power):
    sizes = [8, 16, 32, 64, 128]
    fit = CURVE.inflation(sizes, 3 + 96 / np.array(sizes) ** power, power=power)
    assert (fit.full, fit.noise) == pytest.approx((3, 96)) and fit.plateau == pytest.approx(32 ** (1 / power))
    assert fit.slope(fit.plateau) == pytest.approx(power / 2)
    assert fit.slope(1e-9) == pytest.approx(power) and fit(1e12) == pytest.approx(3, rel=1e-3)
    assert CURVE.inflation(sizes, np.ones(5)).plateau == 0
    assert math.isinf(CURVE.inflation(sizes, 1 / np.array(sizes)).plateau)


def test_a_bend_is_found_where_a_rise_meets_a_plateau():
    sizes = np.array([8, 16, 32, 64, 128, 256])
    rates = 0.5 * np.minimum(sizes / 50, 1) ** 0.8
    found = CURVE.bend(sizes, rates)
    assert (found.slope, found.plateau, found.top) == pytest.approx((0.8, 50, 0.5), rel=0.03)
    straight = CURVE.bend(sizes, np.sqrt(sizes))
    assert straight.plateau == pytest.approx(256) and straight.slope == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    noisy = [CURVE.bend(sizes, rates[:, None] * np.exp(0.1 * rng.standard_normal((6, 5))), seed=i) for i in range(30)]
    assert np.mean([f.slope_low <= 0.8 <= f.slope_high for f in noisy]) >= 0.6  # five seeds resampled are narrow
    assert np.mean([f.plateau_low <= 50 <= f.plateau_high for f in noisy]) >= 0.6
    with pytest.raises(InputError, match="four batch sizes"):
        CURVE.bend([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("batches", [[], iter([1.0])])
def test_batches_that_cannot_be_gone_over_again_are_refused(batches):
    with pytest.raises(InputError, match="at least one batch"):
        CURVE.hessian(Bowl(), bowl_loss, batches)


def test_a_random_loss_is_refused_by_name():
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double()
    with pytest.raises(InputError, match="dropout"):
        CURVE.hessian(model, entropy, [classes()])
    CURVE.hessian(model.eval(), entropy, [classes()])


def test_a_loss_per_example_and_a_frozen_model_are_refused():
    model, batch = perceptron(), classes()
    with pytest.raises(InputError, match="one number"):
        CURVE.hessian(model, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), [batch])
    with pytest.raises(InputError, match="unfreeze"):
        CURVE.hessian(model.requires_grad_(False), entropy, [batch])


def test_frozen_weights_are_left_out_and_unused_ones_have_no_curvature():
    model, batch = perceptron(), classes()
    model[0].requires_grad_(False)
    model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    matrix = CURVE.hessian(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [batch]).dense()
    assert matrix.shape == (23, 23) and float(matrix[:2].abs().max()) == 0 < float(matrix[2:].abs().max())


def test_nan_in_the_weights_is_named():
    model = perceptron()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    with pytest.raises(InputError, match="not finite"):
        CURVE.top_eigenvalue(CURVE.hessian(model, entropy, [classes()]), generator=seeded())


@pytest.mark.parametrize("dtype,close", [(torch.float64, 1e-6), (torch.float32, 3e-3)])
def test_differences_give_the_same_products_and_put_the_weights_back(dtype, close):
    model, (inputs, labels) = perceptron(dtype), classes()
    batch, kept = (inputs.to(dtype), labels), [p.detach().clone() for p in perceptron(dtype).parameters()]
    vector = torch.randn(CURVE.hessian(model, entropy, [batch]).size, generator=seeded(), dtype=dtype)
    for exact, other in (
        [CURVE.hessian(model, entropy, [batch, batch], differences=d) for d in (False, True)],
        [CURVE.gauss_newton(model, outputs, entropy_of, [batch, batch], differences=d) for d in (False, True)],
    ):
        expected = exact.multiply(vector)
        assert float((other.multiply(vector) - expected).norm() / expected.norm()) < close
    assert all(torch.equal(p, k) for p, k in zip(model.parameters(), kept, strict=True))


def test_a_layer_without_a_second_derivative_is_named_and_differences_measure_it():
    """The stock transformer's attention is such a layer."""
    from windtunnel.parts.models import Transformer

    data = wt.data.stdlib(context=8)
    model = Transformer().build(wt.Rung(width=8, depth=1, heads=2, tokens=64), data.shape())
    inputs, targets = (torch.from_numpy(each).long() for each in data.batch(seed=0, step=0, size=2))

    def loss(m, b):
        return F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten())

    with pytest.raises(InputError, match="differences=True"):
        CURVE.hessian(model, loss, [(inputs, targets)]).multiply(torch.ones(sum(p.numel() for p in model.parameters())))
    operator = CURVE.hessian(model, loss, [(inputs, targets)], differences=True)
    one, other = (torch.randn(operator.size, generator=seeded(i)) for i in range(2))
    there, back = float(other @ operator.multiply(one)), float(one @ operator.multiply(other))
    assert there == pytest.approx(back, rel=0.05) and there != 0


def test_torch_s_fused_attention_is_measured_in_its_plain_form():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(3, 4, 4, generator=seeded()))

        def forward(self, x):
            return F.scaled_dot_product_attention(*(x @ m for m in self.mix), is_causal=True)

    x = torch.randn(2, 1, 6, 4, generator=seeded(1))
    exact, other = (CURVE.hessian(Attend(), lambda m, b: m(b).square().mean(), [x], differences=d).dense()
                    for d in (False, True))  # fmt: skip
    torch.testing.assert_close(exact, exact.mT, rtol=1e-3, atol=1e-5)
    assert float((exact - other).norm() / exact.norm()) < 0.01
