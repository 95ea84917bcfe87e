"""From a table of runs to a forecast, a verdict on an idea, and what to train next. Needs no GPU and no torch.

The runs are made up, by a world whose truth is known, so that the forecast can be compared with what was to come:

    python examples/forecast_from_csv.py

With a table of your own, leave out `make_table` and start at `wt.read_runs("runs.csv", columns="loss=val_loss")`.
"""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np

import windtunnel as wt
from windtunnel.worlds import PowerLawWorld
from windtunnel.worlds.world import sizes_at

TARGET = wt.Target(params=1e9, tokens=2e10)
TRUTH = PowerLawWorld(floor=1.7, params_term=(400.0, 0.34), tokens_term=(410.0, 0.28))
GAIN = 1.25  # the idea does with 1/GAIN of the compute, at every size
NOISE = 0.002  # standard deviation of log loss between seeds; an idea shares nine tenths of its variance


def make_table(file: Path) -> None:
    """Runs of a base and of an idea: 5 sizes, 3 horizons, 2 seeds, as a person would log them."""
    generator = np.random.default_rng(7)
    with file.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["n_params", "tokens", "seed", "idea", "val_loss"])
        for params in (1e7, 2e7, 4e7, 8e7, 1.6e8):
            for tokens in (10 * params, 20 * params, 40 * params):
                for seed in (0, 1):
                    shared = generator.normal(0, NOISE * np.sqrt(0.9))
                    for idea, gain in (("base", 1.0), ("sparkle", GAIN)):
                        own = shared + generator.normal(0, NOISE * np.sqrt(0.1))
                        loss = expected(params, tokens, gain) * np.exp(own)
                        rows.writerow([f"{params:g}", f"{tokens:g}", seed, idea, f"{loss:.5f}"])


def expected(params: float, tokens: float, gain: float = 1.0) -> float:
    """The loss that was to come: compute multiplied by `gain`."""
    more = np.sqrt(gain)
    return float(TRUTH(sizes_at(np.array([more * params]), np.array([more * tokens])))[0])


def main() -> None:
    """Read, forecast, judge, advise."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runs.csv"
        make_table(file)
        runs = wt.read_runs(file, columns="params=n_params,loss=val_loss")
    series = dict(runs.by_series())
    base, idea = series["base"], series["sparkle"]
    fitted = wt.fit(base)

    print("the forecast of the base\n------------------------")
    forecast = fitted.forecast(TARGET, level=0.9)
    print(forecast)
    assert TARGET.params is not None and TARGET.tokens is not None
    print("what was to come:", wt.score(forecast, expected(TARGET.params, TARGET.tokens)))

    print("\nis the idea worth it?\n---------------------")
    print("sparkle", wt.compare(base, idea, TARGET, base_fit=fitted), f"(true: {GAIN:g}x compute)")

    print("\nwhat to train next, for 1e19 FLOPs\n----------------------------------")
    print(*wt.next_runs(fitted, TARGET, 1e19), sep="\n")

    print("\nhow to spend 1e21 FLOPs on one run\n----------------------------------")
    print(wt.allocate(fitted, 1e21))

    print("\nwhat the runs do not settle, and whether a rung is out of line\n--------------------------------")
    print(*(wt.unidentified(fitted) or ["Every parameter of the likeliest law is settled."]), sep="\n")
    print(*(wt.odd_rungs(fitted, TARGET) or ["No rung is out of line with the others."]), sep="\n")


if __name__ == "__main__":
    main()
