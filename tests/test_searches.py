"""Searches are pure functions of what was told, stay within space and budget, and a study may be tuned by one."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.launch.here import Here
from windtunnel.parts.optimizers import AdamW
from windtunnel.recipe import Tuned
from windtunnel.searches import Bayes, BayesTuning, MixtureMean, Point, Space, Told
from windtunnel.searches.trend import Trend, fit_trend, level_at
from windtunnel.study.stages import Stages
from windtunnel.tune import Heard

needs_botorch = pytest.mark.skipif(importlib.util.find_spec("botorch") is None, reason="botorch is not installed")
SHARES = Space(shares=("a", "b", "c"))
COSTS = (1.0, 2.0, 5.0)


MEAN = MixtureMean(weights={"a": 0.2, "b": 0.5, "c": 0.3})


def told(point: Point, draw: np.random.Generator) -> Told:
    """The loss on each source falls with its share, and they are judged 2 : 5 : 3; small sizes lie higher."""
    parts = {
        name: (1.5 + (0.4, 0.2, 0.0)[point.fidelity] + 0.5 * (point.values[name] + 0.05) ** -0.4)
        * math.exp(0.002 * draw.standard_normal())
        for name in "abc"
    }
    return Told(point, sum(weight * parts[name] for name, weight in MEAN.weights.items()), parts)


BEST = min(
    told(Point(values, 2), np.random.default_rng(0)).loss or 9.0 for values in SHARES.points(SHARES.spread(4000, 7))
)


def told_by(search: Bayes, seed: int = 0) -> list[Told]:
    draw, heard = np.random.default_rng(seed), []
    while asked := search.ask(heard):
        heard += [told(point, draw) for point in asked]
    return heard


def test_points_of_a_space_lie_in_it_and_come_back():
    space = Space(shares=("a", "b", "c"), ranges={"lr": Tuned(1e-4, 1e-1)})
    rows = space.spread(33, seed=1)
    points = space.points(rows)
    assert all(sum(p[n] for n in "abc") == pytest.approx(1, abs=1e-9) and 1e-4 <= p["lr"] <= 1e-1 for p in points)
    assert np.allclose(space.rows(points), rows, atol=2e-3)
    assert np.abs(rows[:, :3].mean(axis=0) - 1 / 3).max() < 0.05  # uniform on the simplex


@needs_botorch
def test_a_loss_that_is_no_number_is_a_run_that_diverged():
    found = [Told(t.point, loss) for t, loss in zip(heard(2.0), (2.0, 2.1, 2.2, 2.3, 2.4, math.nan), strict=True)]
    assert one_size().best(found) == one_size().best([*found[:5], Told(found[5].point, None)])


def one_size() -> Bayes:
    return Bayes(space=Space(ranges={"lr": Tuned(1e-3, 1e-1)}), costs=(1.0,), budget=9)


def heard(loss: float | None) -> list[Told]:
    return [Told(point, loss) for point in one_size().ask([])]


@pytest.mark.parametrize(
    "call,said",
    [
        (lambda: Space(shares=("a",)), "two sources or more"),
        (lambda: Space(shares=("a", "lr"), ranges={"lr": Tuned(1, 2)}), "no name twice"),
        (lambda: SHARES.rows([{"a": 1.0}]), "this space has"),
        (lambda: Bayes(space=SHARES, costs=(2.0, 1.0), budget=5), "rising to the target"),
        (lambda: Bayes(space=SHARES, costs=(1.0,), budget=0), "budget must be positive"),
        (lambda: Bayes(space=SHARES, costs=(2.0, 5.0), budget=5), "5 buys fewer than 3 runs of 2.*Give 6 or more"),
        (lambda: Space(shares="ab"), "give names of data sources"),
        (lambda: Space(ranges={"lr": (1e-3, 1e-1)}), r"has lr=\(0.001, 0.1\); give a range, .*wt.tuned"),
        (lambda: one_size().ask([Told(Point({"lr": 0.01}, 5), 2.0)]), "fidelity 5; costs name 1, counted from 0"),
        (lambda: one_size().best([]), "0 runs were told; .*Train what the search asks for"),
        (lambda: one_size().best(heard(None)), "None of 6 runs told has a finite loss.*Lower the upper end"),
        (lambda: one_size().best(heard(-1.0)), "loss of -1 was told; .*must be above 0"),
        (lambda: MEAN(Space(ranges={"lr": Tuned(1, 2)}), []), "this space has none"),
        (lambda: MEAN(SHARES, [Told(Point(v), 2.0) for v in SHARES.points(SHARES.spread(8, 0))]), "its loss on 'a'"),
    ],
)
def test_a_search_that_cannot_be_made_says_why(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_a_size_without_runs_has_the_level_on_the_line_through_the_nearest():
    assert level_at((0.2, 0.6, 1.0), (3.0, 2.0, None), 2) == pytest.approx(1.0)
    assert level_at((0.2, 0.6, 1.0), (3.0, None, None), 2) == 3.0
    assert level_at((0.2, 0.6, 1.0), (3.0, 2.0, 0.5), 1) == 2.0


def test_mixture_laws_are_a_mean_once_one_size_has_enough_runs():
    draw, points = np.random.default_rng(0), SHARES.points(SHARES.spread(16, 3))
    heard = [told(Point(values), draw) for values in points]
    assert MEAN(SHARES, heard[:4]) is None
    mean = MEAN(SHARES, heard[:12])
    assert mean is not None
    assert np.allclose(mean(SHARES.rows(points))[0], np.log([t.loss for t in heard]), atol=0.03)


@needs_botorch
@pytest.mark.parametrize("mean", [None, MEAN])
def test_a_search_finds_the_mixture_within_its_budget_and_buys_mostly_small_runs(mean):
    search = Bayes(space=SHARES, costs=COSTS, budget=24.0, mean=mean)
    heard = told_by(search)
    assert search.spent(heard) <= 24.0 and search.ask(heard) == []
    found = told(Point(search.best(heard).values, 2), np.random.default_rng(1)).loss
    assert found is not None and found < BEST * 1.02
    assert sum(t.point.fidelity < 2 for t in heard) > sum(t.point.fidelity == 2 for t in heard)


@needs_botorch
def test_what_is_asked_next_follows_from_what_was_told_alone():
    search = Bayes(space=SHARES, costs=COSTS, budget=12.0)
    heard = told_by(search)[:9]
    assert search.ask(heard) == Bayes(space=SHARES, costs=COSTS, budget=12.0).ask(list(heard))
    assert Bayes(space=SHARES, costs=COSTS, budget=12.0).ask([]) == search.ask([])


@needs_botorch
def test_a_search_of_candidates_asks_for_them_digit_for_digit():
    allowed = tuple({"a": i / 6, "b": j / 6, "c": 1 - (i + j) / 6} for i in range(7) for j in range(7 - i))
    search = Bayes(space=SHARES, costs=COSTS, budget=14.0, candidates=allowed)
    heard = told_by(search)
    assert all(t.point.values in allowed for t in heard) and search.best(heard).values in allowed


def test_what_was_asked_first_is_asked_again_until_it_is_told():
    search = Bayes(space=SHARES, costs=COSTS, budget=100.0)
    first = search.ask([])
    heard = [Told(point, 2.0) for point in (first[3], first[0])]
    assert search.ask(heard) == [p for i, p in enumerate(first) if i not in (0, 3)]


@needs_botorch
def test_points_asked_together_fill_one_pack():
    space = Space(shares=("a", "b"), ranges={"lr": Tuned(1e-3, 1e-1)})
    search = Bayes(space=space, costs=(1.0, 2.0), budget=30.0, q=4)
    heard = [Told(p, 2.0 + p.values["a"] + abs(math.log10(p.values["lr"]) + 2)) for p in search.ask([])]
    asked = search.ask(heard)
    assert len(asked) == 4 and len({(p.values["a"], p.fidelity) for p in asked}) == 1
    assert len({p.values["lr"] for p in asked}) == 4


@needs_botorch
def test_intervals_hold_runs_that_were_not_told():
    search = Bayes(space=SHARES, costs=COSTS, budget=24.0, mean=MEAN)
    heard, draw = told_by(search), np.random.default_rng(5)
    rows = SHARES.spread(64, 99)
    inside = []
    for fidelity in range(3):
        mean, spread = search.surrogate(heard).predict(rows, fidelity)
        truth = np.log([told(Point(values, fidelity), draw).loss for values in SHARES.points(rows)])
        inside.append(np.mean(np.abs(truth - mean) < 1.645 * spread))
    assert np.mean(inside) >= 0.8


@needs_botorch
def test_a_run_that_diverged_is_a_wall_and_not_a_hole():
    search = BayesTuning(runs=12, first=6, at_once=2)
    ranges, heard = {"lr": Tuned(1e-4, 1.0)}, []
    while asked := search.ask(ranges, heard):
        for values in asked:
            x = math.log10(values["lr"])
            heard.append(Heard(values, None if x > -1 else 2.0 + (x + 2) ** 2))
    assert len(heard) == 12
    assert 10**-2.4 < search.best(ranges, heard)["lr"] < 10**-1.6


# a study that is tuned by a search


class OneByOne:
    """A search without BoTorch: three values of each field, in turn."""

    runs = 3

    def ask(self, ranges, heard):
        assert all(set(h.values) == set(ranges) for h in heard)
        at = (0.25, 0.5, 0.75)[len(heard)] if len(heard) < 3 else None
        return [] if at is None else [{f: float(f"{r.low * (r.high / r.low) ** at:.3g}") for f, r in ranges.items()}]

    def best(self, ranges, heard):
        return min((h for h in heard if h.loss is not None), key=lambda h: h.loss).values


def asked(corpus, optimizer, search):
    return tiny.study(
        corpus, base=tiny.recipe(corpus, optimizer=optimizer), ideas=[], train_target=False,
        ladder=wt.Ladder.widths((8, 16, 24), depth=1, tokens=tiny.TOKENS // 2, head_width=8, seeds=1),
        tuning=wt.Tuning(seeds=1, recheck=1, search=search),
    )  # fmt: skip


def test_a_study_trains_what_its_search_asks_for_and_uses_what_it_found(corpus, tmp_path):
    study = asked(corpus, AdamW(beta2=wt.tuned(0.9, 0.99)), OneByOne())
    store = wt.Store(tmp_path / "store")
    assert next(row for row in study.plan(store).rows if row.stage == "tune").runs == 3
    result = study.run(store, launcher=Here(devices=1))
    state = Stages(study, store).tuning("base")
    losses = {tuple(a.spec.hyperparameters.items()): store.get(a.spec.key).loss for a in state.asked}
    assert len(losses) == 3 and state.done
    assert tuple(state.values.items()) == min(losses, key=lambda values: losses[values])
    assert any("lr, beta2 were searched together" in c for c in result.forecasts["base"].caveats)
    assert not result.transfers["base"] and result.report(tmp_path / "page.html").exists()
    assert study.plan(store).missing == 0


def test_one_field_that_was_searched_keeps_its_interval_and_its_transfer(corpus, tmp_path):
    result = asked(corpus, AdamW(), OneByOne()).run(wt.Store(tmp_path / "store"), launcher=Here(devices=1))
    assert result.forecasts["base"].hyperparameters["lr"].low > 0 and "lr" in result.transfers["base"]


def test_the_stock_sweep_stays_what_it_was(corpus):
    study = tiny.study(corpus, ideas=[])
    with_none = tiny.study(corpus, ideas=[], tuning=wt.Tuning(points=3, seeds=1, search=None))
    store = wt.Store("nowhere")
    keys = [[a.spec.key for a in Stages(s, store).tuning("base").asked] for s in (study, with_none)]
    assert keys[0] == keys[1] and len(keys[0]) == 3


SIZES = (0.15, 0.4, 1.0)


def trend_of(slopes: tuple[float, ...], runs: tuple[int, ...], seed: int = 0) -> Trend:
    """Fitted to lines of these slopes on the mean with noise 0.005; so many runs of each size."""
    draw, at = np.random.default_rng(seed), np.repeat(range(len(runs)), runs)
    settings = draw.uniform(0, 0.4, (len(at), 1))
    logs = np.array([1.0, 0.9, 0.8])[at] + np.array(slopes)[at] * settings[:, 0] + 0.005 * draw.normal(size=len(at))
    return fit_trend(settings, at, logs, SIZES, lambda rows: (rows[:, 0], np.zeros(len(rows))))


@pytest.mark.parametrize("runs", [(12, 4, 4), (4, 4, 12), (12, 0, 4), (0, 0, 8)])
def test_slopes_that_drift_over_sizes_are_found_and_carried_to_sizes_without_runs(runs: tuple[int, ...]) -> None:
    """Over 20 draws: nearly all slopes within three of their own doubts, and no bias."""
    true = np.array([1.0, 1.3, 1.7])
    fits = [trend_of((1.0, 1.3, 1.7), runs, seed) for seed in range(20)]
    off = np.array([fit.coefficients[:, 1] - true for fit in fits])
    doubts = np.array([np.sqrt(fit.covariances[:, 1, 1]) for fit in fits])
    assert np.mean(np.abs(off) <= 3 * doubts) > 0.9
    assert np.abs(off.mean(axis=0)[np.array(runs) > 0]).max() < 0.05
    assert all(np.linalg.eigvalsh(c).min() > 0 for fit in fits for c in fit.covariances)


def valued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Information is a row's first number, so that the same point is always the best."""
    monkeypatch.setattr(Bayes, "surrogate", lambda self, told: None)

    def values(self, surrogate, rows, places, chosen, turn):
        return np.tile(rows[:, 0], len(places))

    monkeypatch.setattr(Bayes, "_values", values)


@pytest.mark.parametrize(("q", "repeats"), [(1, 2), (5, 2), (4, 1)])
def test_no_setting_is_bought_more_often_than_repeats_and_the_search_then_ends(
    monkeypatch: pytest.MonkeyPatch, q: int, repeats: int
) -> None:
    valued(monkeypatch)
    settings = tuple({"lr": lr} for lr in (0.001, 0.002, 0.004, 0.008))
    space = Space(ranges={"lr": Tuned(1e-4, 1e-1)})
    search = Bayes(space=space, costs=(1.0,), budget=100.0, first=3, q=q, candidates=settings, repeats=repeats)
    heard: list[Told] = []
    while asked := search.ask(heard):
        heard += [Told(point, 1.0) for point in asked]
    bought = Counter(each.point.values["lr"] for each in heard)
    assert bought == {each["lr"]: repeats for each in settings}


def test_a_pack_of_candidates_has_one_mixture_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    valued(monkeypatch)
    shares = ({"a": 0.2, "b": 0.3, "c": 0.5}, {"a": 0.6, "b": 0.2, "c": 0.2})
    settings = tuple({**mixture, "lr": lr} for mixture in shares for lr in (0.001, 0.01, 0.1))
    space = Space(shares=("a", "b", "c"), ranges={"lr": Tuned(1e-4, 1e-1)})
    search = Bayes(space=space, costs=(1.0,), budget=100.0, first=3, q=4, candidates=settings, repeats=1)
    heard = [Told(point, 1.0) for point in search.ask([])]
    while asked := search.ask(heard):
        assert len({tuple(point.values[n] for n in "abc") for point in asked}) == 1
        heard += [Told(point, 1.0) for point in asked]
    assert Counter(tuple(t.point.values.items()) for t in heard) == {tuple(each.items()): 1 for each in settings}


def test_the_best_named_is_not_a_setting_that_nothing_is_known_of(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ({"lr": 0.001}, {"lr": 0.01})
    known = SimpleNamespace(predict=lambda rows, place, noisy: (np.array([1.0, 0.9] * 2), np.array([0.01, 0.5] * 2)))
    monkeypatch.setattr(Bayes, "surrogate", lambda self, told: known)
    search = Bayes(space=Space(ranges={"lr": Tuned(1e-4, 1e-1)}), costs=(1.0,), budget=9.0, candidates=settings)
    assert search.best([Told(Point(each), 1.0) for each in settings]).values == settings[0]


def test_repeats_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="repeats=0"):
        Bayes(space=SHARES, costs=COSTS, budget=9.0, repeats=0)
