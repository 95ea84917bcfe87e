"""Text that judges a study is found in what it is tuned or trained on, however it is cut, wrapped or mixed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import windtunnel as wt
from windtunnel.errors import InputError
from windtunnel.recipe import Judge
from windtunnel.study.stages import Stages
from windtunnel.train.overlap import BEYOND_CHANCE, drawn, found_in, set_aside


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files a0 to a29 and b0 to b29 of random letters, of which no window recurs by chance."""
    made, draw = tmp_path_factory.mktemp("letters"), random.Random(0)
    for name in (f"{kind}{number}" for kind in "ab" for number in range(30)):
        (made / f"{name}.txt").write_text("".join(draw.choices("abcdefghij ", k=2000)))
    return made


def text(folder: Path, pattern: str, **options: Any) -> Any:
    return wt.data.text(str(folder / pattern), **{"context": 32, "validation": 0.3} | options)


def asked(folder: Path, **changes: Any) -> wt.Study:
    data = text(folder, "a*.txt")
    return tiny.study(folder, base=tiny.recipe(folder, data=data), judge=tiny.judge(data), ideas=[], **changes)


def test_a_text_is_found_wherever_it_is_cut():
    tokens = np.random.default_rng(0).integers(0, 50, 4000)
    known = [(tokens[:3960].reshape(-1, 33)[:, :-1], tokens[:3960].reshape(-1, 33)[:, 1:])]
    shifted = tokens[7 : 7 + 32 * 100].reshape(-1, 32)
    others = np.random.default_rng(1).integers(0, 50, (100, 32))
    assert found_in([(shifted, shifted)], known) == 1.0
    assert found_in([(others, others)], known) == 0.0
    assert found_in([(shifted[:25], shifted[:25]), (others[:75], others[:75])], known) == 0.25


def test_images_are_found_whole_and_rows_of_blanks_are_not():
    images = np.random.default_rng(0).random((20, 3, 4, 4), dtype=np.float32)
    labels = np.arange(20)
    assert found_in([(images[:5], labels[:5])], [(images, labels)]) == 1.0
    assert found_in([(images[:5], labels[5:10])], [(images, labels)]) == 0.0  # relabelled, so another example
    blanks = np.full((4, 32), 32)
    assert found_in([(blanks, blanks)], [(blanks, blanks)]) == 0.0


def test_digits_hold_out_what_they_train_on_nowhere():
    data = wt.data.digits()
    assert found_in(drawn(data), set_aside(Judge(data=data, tokens=16))) == 0.0


@pytest.mark.parametrize(
    "tuned_on",
    [
        lambda folder: text(folder, "a1*.txt"),
        lambda folder: text(folder, "*.txt"),
        lambda folder: text(folder, "a*.txt").limited(20_000),
        lambda folder: wt.data.mixed(text(folder, "a*.txt"), text(folder, "b*.txt"), weights=(0.3, 0.7)),
    ],
    ids=["some of the files", "the files and others", "a part of each file", "mixed with others"],
)
def test_data_that_hold_what_judges_cannot_be_tuned_on(folder, tmp_path, tuned_on):
    with pytest.raises(InputError, match=r"% of the examples of tuned_on are among those by which the study is judged"):
        asked(folder, tuned_on=tuned_on(folder)).plan(wt.Store(tmp_path / "store"))


def test_other_files_can(folder, tmp_path):
    plan = asked(folder, tuned_on=text(folder, "b*.txt")).plan(wt.Store(tmp_path / "store"))
    assert plan.rows


@dataclass(frozen=True)
class Leaky:
    """Half of every batch is what judges."""

    inner: Any
    repeat: bool = True

    def shape(self) -> Any:
        return self.inner.shape()

    def fingerprint(self) -> str:
        return "leaky"

    def held_out(self, **how: Any) -> Any:
        return self.inner.held_out(**how)

    def batch(self, *, seed: int, step: int, size: int) -> Any:
        (xs, ys), *_ = self.inner.held_out(size=64, tokens=64 * 32)
        rows = (seed + 7 * step + np.arange(size // 2)) % len(xs)
        own = self.inner.batch(seed=seed, step=step, size=size - size // 2)
        return tuple(np.concatenate(both) for both in zip((xs[rows], ys[rows]), own, strict=True))


def leaky(base: wt.Recipe) -> wt.Recipe:
    """Sees the judge."""
    return base.but(data=Leaky(base.data))


def test_an_idea_that_trains_on_what_judges_is_said_beside_its_forecast_and_its_verdict(folder, tmp_path):
    data = text(folder, "a*.txt")
    study = tiny.study(
        folder, base=tiny.recipe(folder, data=data), judge=tiny.judge(data), ideas=[leaky], train_target=False,
        ladder=wt.Ladder.widths((8, 16, 24), depth=1, tokens=tiny.TOKENS, head_width=8, seeds=1),
        tuning=wt.Tuning(points=3, seeds=1, recheck=0),
    )  # fmt: skip
    stages = Stages(study, wt.Store(tmp_path / "store"))
    assert stages.doubts["base"] == ()
    (said,) = stages.doubts["leaky"]
    assert "50% of the training examples of leaky" in said
    result = study.run(stages.store)
    assert said in result.verdicts["leaky"].caveats and said in result.forecasts["leaky"].caveats
    assert not any("among those that judge" in caveat for caveat in result.forecasts["base"].caveats)


def test_the_bar_lies_above_what_recurs_by_chance():
    """Two draws of the standard library differ by less, six times out of six."""
    data = wt.data.stdlib(context=32)
    known = set_aside(Judge(data=data, tokens=1024))
    shares = [
        found_in((data.batch(seed=seed, step=step, size=32) for step in range(16)), known) for seed in range(10, 16)
    ]
    assert max(shares) - min(shares) < BEYOND_CHANCE
