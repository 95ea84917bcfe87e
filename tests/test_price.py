"""What runs cost, by their own FLOPs: of a target, of a budget's split, of an idea beside its base."""

import csv

import numpy as np
import pytest

import windtunnel as wt
from windtunnel.cli import main
from windtunnel.forecasts.price import Bill, price_of

SIZES = np.array([2e7, 4e7, 8e7, 1.6e8, 3.2e8])
TEACHER = 2 * 7e9  # FLOPs a token of a teacher's forward pass


def _loss(params, tokens):
    return 1.7 + 400 / params**0.34 + 410 / tokens**0.28


def _runs(ratios=(10.0, 20.0, 40.0), *, flops=None, seed=0, idea=lambda n, d: (n, d), **more):
    """A ladder with 0.2 % noise; `flops` of params and tokens, and what params and tokens are worth."""
    n, d = (np.ravel(each) for each in np.meshgrid(SIZES, ratios, indexing="ij"))
    d = n * d
    loss = _loss(*idea(n, d)) * np.exp(0.002 * np.random.default_rng(seed).standard_normal(len(n)))
    stated = {} if flops is None else {"flops": flops(n, d)}
    return wt.Observations(loss=loss, params=n, tokens=d, **stated, **{k: f(n) for k, f in more.items()})


def _optimum(flops, cost):
    params = np.geomspace(1e7, 1e12, 20001)
    tokens = flops / cost(params)
    at = np.argmin(_loss(params, tokens))
    return params[at], tokens[at], _loss(params, tokens)[at]


def test_the_price_of_runs_is_found_exactly_and_what_is_no_such_price_is_said_to_be_off():
    for per_param, per_token in ((6, 0), (18, 0), (6, TEACHER), (2, 1e9), (6e-18, 2e-9)):
        runs = _runs(flops=lambda n, d, a=per_param, b=per_token: (a * n + b) * d)
        found = price_of(runs.params, runs)
        assert found is not None and found.sure
        assert (found.per_param, found.per_token) == (pytest.approx(per_param), pytest.approx(per_token, rel=1e-6))
    runs = _runs(flops=lambda n, d: 6 * n * d * (n / 2e7) ** 0.5)  # grows with size: no sum of the two parts
    found = price_of(runs.params, runs)
    assert found is not None and not found.sure and found.off > 0.1


def test_a_target_is_priced_by_what_its_tokens_cost_and_not_at_the_ratio_of_the_largest_run():
    runs = _runs((20.0,), flops=lambda n, d: (6 * n + TEACHER) * d)
    target = wt.Target(params=2e9, tokens=4e10)
    found = wt.fit(runs).forecast(target)
    assert found.target["flops"] == pytest.approx((6 * 2e9 + TEACHER) * 4e10, rel=1e-6)
    assert any("6 x params + 1.4e+10 FLOPs a token" in each for each in found.caveats)
    assert found.loss.holds(_loss(2e9, 4e10))
    plain = wt.fit(_runs((20.0,), flops=lambda n, d: 18 * n * d)).forecast(target)
    assert not any("FLOPs" in each for each in plain.caveats)
    rough = wt.fit(_runs((20.0,), flops=lambda n, d: 6 * n * d * (n / 2e7) ** 0.5)).forecast(target)
    assert any("state the target's flops" in each for each in rough.caveats)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per_param, per_token", [(18, 0.0), (6, TEACHER)])
def test_a_budget_is_split_at_the_price_of_the_runs(seed, per_param, per_token):
    def cost(params):
        return per_param * params + per_token

    fitted = wt.fit(_runs((10.0, 20.0, 40.0, 80.0), flops=lambda n, d: cost(n) * d, seed=seed))
    params, tokens, loss = _optimum(1e21, cost)
    split = wt.allocate(fitted, 1e21)
    assert split.params.holds(params) and split.tokens.holds(tokens) and split.loss.holds(loss)
    assert split.to_json()["flops_per_param_token"] == pytest.approx(per_param, rel=1e-6)
    assert f"a run costs {split.price}" in str(split)
    needed = wt.flops_for(fitted, loss)
    assert 0.5 < needed.median / 1e21 < 2
    own = wt.allocate(fitted, 1e21, flops_per_param_token=6)
    assert 6 * own.params.median * own.tokens.median == pytest.approx(1e21, rel=0.02)


def test_what_to_run_next_is_priced_as_the_runs_are():
    fitted = wt.fit(_runs((10.0, 20.0, 40.0, 80.0), flops=lambda n, d: (6 * n + TEACHER) * d))
    advice = wt.next_runs(fitted, wt.Target(params=2e9, tokens=4e10), 5e20)
    assert advice
    for each in advice:
        n, d = each.sizes["params"], each.sizes["tokens"]
        assert each.flops / each.seeds == pytest.approx((6 * n + TEACHER) * d, rel=1e-6)


def test_a_budget_for_experts_is_priced_by_the_params_at_work():
    fitted = wt.fit(_runs(active_params=lambda n: n / 16))
    params, tokens, _ = _optimum(1e21, lambda n: 6 / 16 * n)
    split = wt.allocate(fitted, 1e21)
    assert split.params.holds(params) and split.tokens.holds(tokens)
    assert any("16 for each active one" in each for each in split.caveats)


def test_experts_that_no_run_had_are_said():
    fitted, dense = wt.fit(_runs(active_params=lambda n: n / 16)), wt.fit(_runs())
    for found, params, times in ((fitted, 1.28e11, 64), (fitted, 2e9, 1), (dense, 3.2e10, 16)):
        said = found.forecast(wt.Target(params=params, active_params=2e9, tokens=4e10))
        assert any(f"The target has {times} params for each active one" in each for each in said.caveats)
        assert not said.reliable
    usual = fitted.forecast(wt.Target(params=3.2e10, active_params=2e9, tokens=4e10))
    assert usual.reliable and not any("for each active one" in each for each in usual.caveats)


def test_what_an_idea_adds_to_the_bill_is_carried_to_the_target_where_it_changes_with_size():
    def idea(n, d):
        return 1.2 * n, 1.2 * d

    target, truth = wt.Target(params=2e9, tokens=4e10), _loss(1.2 * 2e9, 1.2 * 4e10)
    worth = next(c for c in np.geomspace(1, 4, 2001) if _loss(2e9 * c**0.5, 4e10 * c**0.5) <= truth)
    for more, at_target in ((lambda n: 8e8 / (6 * n), 1 + 8e8 / 1.2e10), (lambda n: 0.05 * (n / 2e7) ** 0.5, 1.5)):
        base = _runs(flops=lambda n, d: 6 * n * d)
        dearer = _runs(flops=lambda n, d, more=more: 6 * n * d * (1 + more(n)), idea=idea)
        verdict = wt.compare(base, dearer, target)
        assert verdict.compute_multiplier.holds(worth / at_target)
        assert any(f"{at_target:.3g} at the target if that goes on" in each for each in verdict.caveats)
    lumpy = _runs(flops=lambda n, d: 6 * n * d * np.where(n > 1e8, 1.4, 0.9), idea=idea)
    assert any("by no rule that could be carried on" in each for each in wt.compare(base, lumpy, target).caveats)


def test_a_bill_that_would_fall_below_nothing_is_not_carried_on():
    cheaper = Bill(1 - 0.1 * (SIZES / SIZES[0]) ** 0.5, SIZES)
    assert cheaper.at(SIZES[-1] * 2) == pytest.approx(1 - 0.1 * 32**0.5, abs=1e-6)
    assert cheaper.at(SIZES[-1] * 100) is None


def test_a_bill_that_is_the_same_but_for_counting_or_is_told_by_few_rungs_is_not_carried_on():
    assert Bill(np.array([1.10, 1.12, 1.11]), SIZES[-3:]).at(2e9) == pytest.approx(1.11)
    assert Bill(np.array([1.1, 1.2, 1.4]), SIZES[-3:]).at(2e9) is None
    assert Bill(1 + 0.05 * SIZES / SIZES[0], SIZES).at(1e12) is None
    growing = _runs((20.0,), flops=lambda n, d: 6 * n * d * (1 + 0.05 * (n / 2e7) ** 0.5))
    base = _runs((20.0,), flops=lambda n, d: 6 * n * d)
    bare = [wt.Observations(loss=o.loss, flops=o.flops) for o in (base, growing)]
    for runs, target in (((base, growing), {"params": 2e9, "tokens": 4e10, "flops": 1e21}),
                         (bare, {"params": 2e9, "flops": 1e21}), (bare, {"flops": 1e21})):  # fmt: skip
        assert wt.compare(*runs, wt.Target(**target)).compute_multiplier.median > 0


def test_targets_that_ask_for_an_idea_elsewhere_are_said_beside_its_verdict(tmp_path, capsys):
    def rows(path, names, values):
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([names, *values])
        return str(path)

    o = _runs()
    assert o.params is not None and o.tokens is not None
    table = rows(
        tmp_path / "runs.csv", ["params", "tokens", "seed", "idea", "loss", "unique_tokens"],
        [(n, d, 0, idea, loss * worth, d) for n, d, loss in zip(o.params, o.tokens, o.loss, strict=True)
         for idea, worth in (("base", 1), ("filtered", 0.98))],
    )  # fmt: skip
    for unique, said in ((1e9, True), (4e10, False)):
        asked = [(2e9, 4e10, 4e10, "base"), (2e9, 4e10, unique, "filtered")]
        targets = rows(tmp_path / "targets.csv", ["params", "tokens", "unique_tokens", "idea"], asked)
        assert main(["fit", table, "--targets", targets]) == 0
        assert ("The targets ask for filtered at 1G unique_tokens" in capsys.readouterr().out) is said
