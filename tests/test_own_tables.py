"""Tables as people keep them, where an answer would be wrong without a word: variants, passes, rates and doubts."""

import itertools

import numpy as np
import pytest

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.laws.reading import read_targets
from windtunnel.laws.unread import unread

SIZES = (6e6, 2e7, 6e7, 2e8, 6e8)


def _loss(params, tokens):
    return 1.8 + 400 / params**0.34 + 410 / tokens**0.28


def _arms(rates, gain=0.97, seeds=2):
    """Two optimizers at every size, each at its own rates."""
    noise = np.random.default_rng(0)
    rows = [
        (n, 20 * n, optimizer, rate, seed, _loss(n, 20 * n) * (gain if optimizer == "sophia" else 1)
         * (1 + 0.01 * np.log(rate / best) ** 2) * (1 + 0.001 * noise.standard_normal()))
        for n, (optimizer, (best, tried)), seed in itertools.product(SIZES, rates.items(), range(seeds))
        for rate in tried
    ]  # fmt: skip
    names = ("params", "tokens", "optimizer", "lr", "seed", "loss")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("tried", [1, 4])
def test_variants_with_rates_of_their_own_are_not_one_search_without_a_word(tried):
    rates = {"adamw": (6e-4, 6e-4 * 2.0 ** np.arange(tried)), "sophia": (2.9e-4, 2.9e-4 * 2.0 ** np.arange(tried))}
    table = _arms(rates)
    (said,) = [caveat for caveat in wt.read_runs(table).caveats if "count as one search" in caveat]
    assert "differ in 'optimizer' beside their rates" in said and '"idea=optimizer"' in said
    assert not any("one search" in caveat for caveat in wt.read_runs(table, "idea=optimizer").caveats)
    alone = {name: [v for v, o in zip(column, table["optimizer"], strict=True) if o == "adamw"]
             for name, column in table.items()}  # fmt: skip
    assert not any("one search" in caveat for caveat in wt.read_runs(alone).caveats)


@pytest.mark.parametrize(
    "mark", [lambda rate, low: f"lr{rate:g}", lambda rate, low: "*" if rate == low else "", lambda rate, low: "yes"
             if rate > 2 * low else "no"]
)  # fmt: skip
def test_names_of_rates_and_marks_of_results_are_no_variants(mark):
    rates = 6e-4 * 2.0 ** np.arange(-2, 3)
    table = _arms({"adamw": (6e-4, rates)}, seeds=1)
    table["optimizer"] = [mark(rate, 6e-4) for rate in table["lr"]]
    assert not any("one search" in caveat for caveat in wt.read_runs(table).caveats)


def test_words_that_do_nothing_are_not_said_beside_rates():
    table = _arms({"adamw": (6e-4, 6e-4 * 2.0 ** np.arange(4))}, seeds=1)
    table["optimizer"] = ["host a", "host b"] * (len(table["loss"]) // 2)
    assert not any("one search" in caveat for caveat in wt.read_runs(table).caveats)


@pytest.mark.parametrize("coded", [(0, 1), ("", 1e9), (4, 16), ("False", "True")])
def test_variants_coded_as_numbers_with_rates_of_their_own_are_not_one_search_without_a_word(coded):
    table = _arms({"adamw": (6e-4, [6e-4]), "sophia": (1e-3, [1e-3])})
    table["teacher"] = [coded[name == "sophia"] for name in table.pop("optimizer")]
    (said,) = [caveat for caveat in wt.read_runs(table).caveats if "count as one search" in caveat]
    assert "differ in 'teacher' beside their rates" in said
    assert not any("one search" in caveat for caveat in wt.read_runs(table, "series=teacher").caveats)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("warmup_steps", lambda n, rate: 100 if rate < 2e-3 else 200),
        ("lr_decay", lambda n, rate: 0 if rate < 2e-3 else 1),
        ("ramp", lambda n, rate: rate * 1e5),
        ("factor", lambda n, rate: 6e-4 / rate),
        ("depth", lambda n, rate: round(np.log2(n))),
        ("converged", lambda n, rate: int(rate < 2e-3)),
        ("run_id", lambda n, rate: round(rate / 6e-4) // 3),
    ],
)
def test_numbers_that_move_with_the_rate_or_the_size_are_no_variants(name, number):
    table = _arms({"adamw": (6e-4, 6e-4 * 2.0 ** np.arange(4))}, seeds=1)
    table[name] = [number(n, rate) for n, rate in zip(table["params"], table["lr"], strict=True)]
    table["lr"] = [rate * (2e7 / n) ** 0.2 for n, rate in zip(table["params"], table["lr"], strict=True)]
    assert not any("one search" in caveat for caveat in wt.read_runs(table).caveats)


def test_of_variants_that_share_their_rates_the_best_is_said_to_be_kept_and_of_repeats_that_they_are_noise():
    rates = (3e-4, 6e-4, 1.2e-3, 2.4e-3)
    table = _arms({"adamw": (6e-4, rates), "sophia": (6e-4, rates)}, seeds=1)
    (said,) = [caveat for caveat in wt.read_runs(table).caveats if "the loss goes with" in caveat]
    assert "'optimizer', and of those the best of each size is kept" in said and "noise" not in said
    unsearched = _arms({"adamw": (6e-4, [6e-4]), "sophia": (6e-4, [6e-4])}, seeds=3)
    (said,) = [caveat for caveat in wt.read_runs(unsearched).caveats if "the loss goes with" in caveat]
    assert "'optimizer', which counts as run-to-run noise" in said


def test_rates_that_a_logger_rounded_are_one_rate_and_close_random_ones_are_many():
    table = {name: np.array(column) for name, column in _arms({"adamw": (6e-4, [6e-4])}, seeds=3).items()}
    table["lr"] = np.tile([6e-4, 6.012e-4, 6.024e-4], len(SIZES))
    del table["optimizer"]
    fitted = wt.fit(wt.read_runs(table))
    assert len(fitted.observations) == 15 and fitted.noise.source == "seeds"
    with pytest.raises(InputError, match="No hyperparameter was searched"):
        wt.fit_surface(wt.read_runs(table))
    drawn = {"loss": [], "params": [], "tokens": [], "lr": []}
    for n, rate in itertools.product(SIZES, np.geomspace(3e-4, 1.2e-3, 200)):
        for name, value in zip(drawn, (_loss(n, 20 * n) * (1 + 0.1 * np.log(rate / 6e-4) ** 2), n, 20 * n, rate),
                               strict=True):  # fmt: skip
            drawn[name].append(value)
    assert len(wt.fit(wt.read_runs(drawn)).observations) == len(SIZES)


def test_other_settings_than_rates_are_as_near_as_they_are():
    sizes, betas = np.repeat(SIZES, 4), np.tile([0.99, 0.995, 0.998, 0.999], len(SIZES))
    loss = _loss(sizes, 20 * sizes) * (1 + 0.05 * (np.log(1 - betas) - np.log(0.004)) ** 2)
    surface = wt.fit_surface(wt.Observations(params=sizes, tokens=20 * sizes, loss=loss), extra={"beta2": betas})
    assert surface.names == ("beta2",)


def test_runs_of_steps_and_rates_alone_are_a_ladder_in_steps():
    table = {"steps": [1e3, 2e3, 4e3, 8e3, 1.6e4], "loss": [4.1, 3.6, 3.3, 3.1, 3.0], "lr": [6e-4] * 5}
    fitted = wt.fit(wt.read_runs(table))
    assert fitted.observations.axis == "steps" and len(fitted.observations) == 5
    searched = {name: np.repeat(column, 3) for name, column in table.items()}
    searched["lr"] = np.tile([3e-4, 6e-4, 1.2e-3], 5)
    searched["loss"] = searched["loss"] * np.tile([1.02, 1.0, 1.02], 5)
    assert len(wt.fit(wt.read_runs(searched)).observations) == 5


@pytest.mark.parametrize("eval_loss", [["", "", "", "", 2.6], [0] * 5])
def test_a_loss_that_cannot_be_read_is_not_recommended(eval_loss):
    table = {"params": SIZES, "loss": [3.4, 3, 2.8, 2.6, 2.5], "eval_loss": eval_loss, "val_loss_gap": [0.1] * 5}
    assert wt.read_runs(table).caveats == ()


def test_a_loss_beside_one_of_held_out_data_is_said_unless_it_was_asked_for():
    table = {"params": SIZES, "loss": [3.4, 3, 2.8, 2.6, 2.5], "eval_loss": [3.5, 3.1, 2.9, 2.7, 2.6]}
    (said,) = wt.read_runs(table).caveats
    assert "the table also has 'eval_loss'" in said and '--columns "loss=eval_loss"' in said
    assert wt.read_runs(table, "loss=loss").caveats == () == wt.read_runs(table, "loss=eval_loss").caveats


def _repeated(params=(2e7, 6e7, 2e8, 6e8), unique=(1e8, 1e9), epochs=(1, 2, 4, 8, 16), seed=0):
    """Runs whose repeated tokens fade (2305.16264)."""
    noise, rows = np.random.default_rng(seed), []
    for n, u, e in itertools.product(params, unique, epochs):
        effective = u + u * 15.4 * (1 - np.exp(-(e - 1) / 15.4))
        rows.append((n, u * e, u, e, _loss(n, effective) * (1 + 0.003 * noise.standard_normal())))
    return dict(zip(("params", "tokens", "unique_tokens", "epochs", "loss"), np.array(rows).T, strict=True))


def test_a_target_has_the_data_of_all_runs_where_they_have_the_same():
    same, fresh = wt.fit(wt.read_runs(_repeated(unique=(1e9,)))), wt.fit(wt.read_runs(_repeated(epochs=(1,))))
    target = wt.Target(params=2e9, tokens=2e10)
    found = same.forecast(target)
    assert found.target["unique_tokens"] == pytest.approx(1e9)
    assert any("unique_tokens were not stated; all runs have 1G" in each for each in found.caveats)
    assert any("unique tokens are seen 20 times" in each for each in found.caveats)
    assert fresh.forecast(target).target.get("unique_tokens", 2e10) == pytest.approx(2e10)


@pytest.mark.parametrize("stated", ["tokens", "unique_tokens"])
def test_epochs_tell_unique_tokens_or_tokens(stated):
    table = _repeated()
    read = wt.read_runs({name: table[name] for name in ("params", stated, "epochs", "loss")})
    assert read.tokens is not None and read.unique_tokens is not None
    assert np.allclose(read.tokens, table["tokens"]) and np.allclose(read.unique_tokens, table["unique_tokens"])
    assert any("epochs" in caveat for caveat in read.caveats)
    assert wt.read_runs({**table, "epochs": ["?"] * 40}).unique_tokens is not None
    batches = {"params": SIZES, "steps": [1e4] * 5, "batch_tokens": [1e5] * 5, "epochs": [1, 1, 2, 2, 4],
               "loss": [3.4, 3, 2.8, 2.6, 2.5]}  # fmt: skip
    assert wt.read_runs(batches).unique_tokens.tolist() == [1e9, 1e9, 5e8, 5e8, 2.5e8]
    zero = {"params": SIZES, "tokens": [1e8] * 5, "loss": [3.4, 3, 2.8, 2.6, 2.5], "epochs": [0, 0, 0, 1, 1]}
    assert wt.read_runs(zero).unique_tokens is None
    once = {"params": SIZES, "tokens": [20 * n for n in SIZES], "loss": [3.4, 3, 2.8, 2.6, 2.5], "epochs": [1] * 5}
    assert wt.read_runs(once).unique_tokens is None


@pytest.mark.parametrize("stated", ["tokens", "unique_tokens"])
def test_epochs_that_some_runs_lack_are_refused_where_data_repeat_and_ignored_where_none_do(stated):
    table = {name: list(_repeated()[name]) for name in ("params", stated, "epochs", "loss")}
    lacking = table | {"epochs": ["" if passes == 1 else passes for passes in table["epochs"]]}
    with pytest.raises(InputError, match=r'column epochs is empty or NaN in row.*ignore the column with.*"epochs="'):
        wt.read_runs(lacking)
    assert getattr(wt.read_runs(lacking, "epochs="), stated) is not None
    once = {
        "params": SIZES,
        "tokens": [20 * n for n in SIZES],
        "loss": [3.4, 3, 2.8, 2.6, 2.5],
        "epochs": [1] * 4 + [""],
    }
    assert wt.read_runs(once).unique_tokens is None
    targets = read_targets({"params": [1e9, 2e9], "tokens": [2e10, 4e10], "epochs": [4, ""]})
    assert targets.unique_tokens[0] == 5e9 and np.isnan(targets.unique_tokens[1])


def test_why_there_is_no_backtest_is_said():
    noise = np.random.default_rng(0)
    sizes, passes = 1e7 * 2.0 ** np.arange(10), np.tile([1, 4, 16, 64], 3)[:10]
    runs = {"params": sizes, "tokens": 20 * sizes, "epochs": passes,
            "loss": _loss(sizes, 20 * sizes / passes**0.2) * np.exp(0.002 * noise.standard_normal(10))}  # fmt: skip
    (said,) = [caveat for caveat in wt.fit(wt.read_runs(runs)).caveats if "no backtest" in caveat]
    assert "With 10 runs too few are left for the laws' parameters once one of 10 rungs is hidden" in said
    few = {name: column[:3] for name, column in runs.items() if name != "epochs"}
    (said,) = [caveat for caveat in wt.fit(wt.read_runs(few)).caveats if "no backtest" in caveat]
    assert "With 3 rungs none can be hidden" in said


@pytest.mark.parametrize(("alpha", "beta"), [(0.25, 0.4), (0.34, 0.28)])
def test_a_budget_for_repeated_data_is_split_well_whatever_the_exponents(alpha, beta):
    def truth(n, d, u):
        seen = np.minimum(u, d)
        effective = seen * (1 + 15.4 * (1 - np.exp(-np.maximum(d / seen - 1, 0) / 15.4)))
        return 1.8 + 0.9 * (1e8 / n) ** alpha + 0.9 * (2e9 / effective) ** beta

    rows = np.array([(n, u * e, u) for n, u, e in itertools.product((2e7, 6e7, 2e8, 6e8), (1e8, 1e9), (1, 2, 4, 8))])
    n, d, u = rows.T
    noise = 1 + 0.003 * np.random.default_rng(0).standard_normal(len(n))
    fitted = wt.fit(wt.Observations(params=n, tokens=d, unique_tokens=u, loss=truth(n, d, u) * noise))
    params = np.geomspace(1e7, 1e12, 4000)
    for unique in (None, 1e9):
        best = float(params[np.argmin(truth(params, 1e21 / 6 / params, unique or 1e30))])
        split = wt.allocate(fitted, 1e21, unique_tokens=unique)
        assert split.params.holds(best) and abs(np.log(split.params.median / best)) < 0.4


def test_a_budget_for_repeated_data_says_how_often_they_repeat_and_holds_the_truth():
    for seed in range(3):
        split = wt.allocate(wt.fit(wt.read_runs(_repeated(seed=seed))), 1e21, unique_tokens=1e9)
        params = np.geomspace(1e8, 1e11, 2000)
        tokens = 1e21 / 6 / params
        effective = 1e9 + 1e9 * 15.4 * (1 - np.exp(-np.maximum(tokens / 1e9 - 1, 0) / 15.4))
        assert split.params.holds(float(params[np.argmin(_loss(params, np.minimum(effective, tokens)))]))
        assert any("At the best split: unique tokens are seen" in caveat for caveat in split.caveats)
        assert "best params grow as budget ** " in str(split)


def test_unique_tokens_are_read_where_all_runs_have_as_many_tokens():
    n, u = (column.ravel() for column in np.meshgrid((1e5, 8e5, 1e7, 4e7), (1e5, 2.5e5, 5e5, 1e6)))
    loss = 1.5 + 30 / n**0.25 + 0.25 * np.log1p((n / u / 4) ** 1.5)
    runs = wt.Observations(params=n, tokens=np.full(16, 1e7), unique_tokens=u, loss=loss)
    assert unread(runs, {"params"}) == ("unique_tokens",)
    fitted = wt.fit(runs)
    assert "unique_tokens" in fitted.reads and fitted.unread == ()
    worse, better = (fitted.forecast(wt.Target(params=8e7, tokens=1e7, unique_tokens=u)) for u in (1e5, 1e6))
    assert worse.loss.low > better.loss.median
    other = fitted.forecast(wt.Target(params=8e7, tokens=1e8, unique_tokens=1e6))
    assert any("nothing here tells what tokens do" in caveat for caveat in other.caveats)


def test_a_ladder_with_a_little_less_data_at_its_top_stays_a_ladder_in_params():
    n = np.geomspace(1e6, 1e9, 8)
    noise = np.exp(0.002 * np.random.default_rng(1).standard_normal(8))
    for unique in (np.where(n < 5e7, 1e9, 5e8), np.where(n < 5e8, 1e9, 0.94e9)):
        loss = _loss(n, 1e9) * noise
        fitted = wt.fit(wt.Observations(params=n, tokens=np.full(8, 1e9), unique_tokens=unique, loss=loss))
        assert fitted.reads == {"params"} and fitted.backtest.hidden


def test_a_forecast_that_is_not_reliable_says_so_before_its_number():
    steps = wt.Observations(params=SIZES, tokens=np.full(5, 1e9), loss=[_loss(n, 1e9) for n in SIZES])
    far = wt.fit(steps).forecast(wt.Target(params=6e9, tokens=4e11))
    assert not far.reliable and str(far).startswith("caveat: This forecast is not reliable")
    near = wt.fit(steps).forecast(wt.Target(params=6e9, tokens=1e9))
    assert near.reliable and near.doubts == near.caveats


def test_python_names_a_run_far_off_as_the_command_does():
    rows = [(n, seed, _loss(n, 20 * n) * (1 + 0.002 * (seed - 1))) for n in SIZES for seed in range(3)]
    n, seed, loss = np.array(rows).T
    loss[4] *= 2.2
    told = wt.fit(wt.Observations(params=n, tokens=20 * n, seed=seed, loss=loss))
    assert any("off the law of all other runs" in caveat for caveat in told.caveats)


def test_what_a_fit_in_width_cannot_say_is_told():
    fitted = wt.fit(wt.Observations(loss=[4, 3.5, 3.1, 2.9], width=[64, 128, 256, 512]))
    for asked in (lambda: wt.allocate(fitted, 1e20), lambda: wt.flops_for(fitted, 2.5)):
        with pytest.raises(InputError, match="do not tell params from tokens"):
            asked()
    with pytest.raises(InputError, match=r"ask fit\.forecast"):
        fitted.predict(wt.Target(width=1024))


def test_a_verdict_prints_the_target_the_loss_and_its_caveats_first():
    table = _arms({"adamw": (6e-4, [6e-4]), "sophia": (6e-4, [6e-4])})
    arms = dict(wt.read_runs(table, "series=optimizer").by_series())
    verdict = wt.compare(arms["adamw"], arms["sophia"], wt.Target(params=6e9, tokens=1.2e11), name="sophia")
    *caveats, last = str(verdict).splitlines()
    assert all(line.startswith("caveat: ") for line in caveats)
    place, _, said = last.partition(": ")
    assert place == "verdict on sophia at 6G params, 120G tokens, 4.32Z flops"
    assert said == f"{verdict.summary}; loss {verdict.delta.signed()} against the base"


def _mixtures(runs, seed=0, noise=0.005, domains=3):
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.ones(domains), runs), np.exp(noise * generator.standard_normal(runs))


def test_a_mixture_is_not_named_by_chance_nor_for_a_mean_over_domains_in_silence():
    shares, noise = _mixtures(24, seed=5)
    nothing = wt.fit_mixture(shares, 2.5 * noise)
    assert not nothing.told and any("no more of the losses than chance" in caveat for caveat in nothing.caveats)
    with pytest.raises(InputError, match="by chance"):
        nothing.best()
    one = 2 + (shares @ [1.0, 0.3, 0.05] + 0.05) ** -0.3
    assert wt.fit_mixture(shares, one * noise).told and wt.fit_mixture(shares, one * noise).caveats == ()
    shares, noise = _mixtures(12, seed=3, noise=0.004)
    mean = np.mean([2 + (shares[:, i] + 0.02) ** -0.3 for i in range(3)], axis=0)
    assert any("too few to see whether this is the loss of one domain" in c for c in
               wt.fit_mixture(shares, mean * noise).caveats)  # fmt: skip


def test_what_is_no_list_of_fits_or_importances_is_told():
    shares, _ = _mixtures(24)
    each = [wt.fit_mixture(shares, 2 + (shares @ worth + 0.05) ** -0.3) for worth in np.eye(3) + 0.1]
    assert wt.laws.best_mixture(each[0]).argmax() == 0
    wrong = ([1, 2], {"web": 1}, [1, 2, -1], [0, 0, 0], [1, 2, np.nan])
    for importance in wrong:
        with pytest.raises(InputError, match="give 3 numbers, one a fit"):
            wt.laws.best_mixture(each, importance=importance)
    for fits in ([], [each[0], "fit"]):
        with pytest.raises(InputError, match="what fit_mixture returns"):
            wt.laws.best_mixture(fits)
    other, _ = _mixtures(24, domains=4)
    with pytest.raises(InputError, match=r"over \[3, 4\] domains"):
        wt.laws.best_mixture([each[0], wt.fit_mixture(other, 2 + (other[:, 0] + 0.05) ** -0.3)])


def test_an_idea_of_a_table_is_charged_for_the_parameters_it_adds():
    rows = [(n, seed) for n in SIZES for seed in range(3)]
    n, seed = np.array(rows).T
    noise = 1 + 0.001 * np.random.default_rng(0).standard_normal((2, len(n)))
    base = wt.Observations(params=n, tokens=20 * n, seed=seed, loss=_loss(n, 20 * n) * noise[0])
    wider = wt.Observations(params=1.09 * n, tokens=20 * n, seed=seed, loss=_loss(1.09 * n, 20 * n) * noise[1])
    verdict = wt.compare(base, wider, wt.Target(params=6e9, tokens=1.2e11))
    assert any("takes 1.09 times the base's FLOPs" in caveat for caveat in verdict.caveats)
    assert verdict.compute_multiplier.high < 1.06


def test_a_score_says_whether_it_held():
    loss = np.linspace(3.4, 2.3, 8)
    told = wt.fit_task(loss, 0.25 + 0.65 / (1 + np.exp(5 * (loss - 2.5))), chance=0.25).predict(2.4)
    assert told.holds(told.median) and not told.holds(told.high + 0.01)
    assert str(told) == f"score {told.median:.3f} [{told.low:.3f}, {told.high:.3f}] at 90%"


def _families(**more):
    """Two families of models, each trained on tokens of its own; one has 6 % more loss."""
    sizes = {"pythia": (7e7, 1.6e8, 4.1e8, 1e9, 2.8e9), "opt": (1.25e8, 3.5e8, 1.3e9, 2.7e9, 6.7e9)}
    tokens, worse = {"pythia": 3e11, "opt": 1.8e11}, {"pythia": 1.0, "opt": 1.06}
    rows = [(name, n, tokens[name], worse[name] * _loss(n, tokens[name])) for name, of in sizes.items() for n in of]
    table = dict(zip(("family", "params", "tokens", "loss"), map(list, zip(*rows, strict=True)), strict=True))
    return table | {name: [value(*row[:3]) for row in rows] for name, value in more.items()}


def test_a_column_that_alone_tells_the_effect_of_a_size_is_said():
    (said,) = [caveat for caveat in wt.read_runs(_families()).caveats if "FLOPs" not in caveat]
    assert "Nothing but 'family' tells the effect of tokens" in said and '"series=family"' in said
    crossed = {
        "recipe": ["a", "b", "c"] * 4,
        "params": [1e8, 2e8, 4e8] * 4,
        "tokens": [1e9] * 3 + [4e9] * 3 + [8e9] * 6,
    }
    crossed["loss"] = [_loss(n, d) for n, d in zip(crossed["params"], crossed["tokens"], strict=True)]
    assert any("'recipe' tells the effect of params" in caveat for caveat in wt.read_runs(crossed).caveats)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("family", lambda family, n, d: "one"),
        ("run_name", lambda family, n, d: f"{family}-{n:g}"),
        ("horizon", lambda family, n, d: "much" if d > 2e11 else "little"),
        ("data", lambda family, n, d: f"C4, {d / 1e9:g}B"),
        ("trained", lambda family, n, d: "long" if d > 2e11 else "short"),
        ("host", lambda family, n, d: f"of-{family}"),
        ("precision", lambda family, n, d: "bf16" if n > 5e8 else "fp32"),
    ],
)
def test_names_of_runs_sizes_and_hosts_and_words_beside_other_sizes_alone_tell_no_effect(name, value):
    table = {theirs: cells for theirs, cells in _families(**{name: value}).items() if theirs in ("loss", "params",
             "tokens", name)}  # fmt: skip
    assert not any("Nothing but" in caveat for caveat in wt.read_runs(table).caveats)


def test_families_that_are_named_or_whose_tokens_vary_get_no_doubt():
    table = _families()
    assert not any("Nothing but" in caveat for caveat in wt.read_runs(table, "series=family").caveats)
    tied = table | {"tokens": [20 * n for n in table["params"]]}
    assert not any("Nothing but" in caveat for caveat in wt.read_runs(tied).caveats)
