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
from windtunnel.recipe import DataShape, Judge
from windtunnel.study.stages import Stages
from windtunnel.train import overlap
from windtunnel.train.overlap import Known, drawn


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


@dataclass(frozen=True)
class Given:
    """A plan of given examples: some to train on, some held out."""

    trained: tuple[np.ndarray, np.ndarray]
    held: tuple[np.ndarray, np.ndarray]
    most: int | None = None

    def shape(self) -> Any:
        xs, ys = self.held
        each = int(np.prod(ys.shape[1:], dtype=int))
        return DataShape(
            classes=256, tokens_per_example=each, train_tokens=each * len(self.trained[0]), example_shape=xs.shape[1:]
        )

    def batch(self, *, seed: int, step: int, size: int) -> Any:
        rows = (7919 * seed + 104729 * step + np.arange(size)) % len(self.trained[0])
        return tuple(each[rows] for each in self.trained)

    def held_out(self, *, size: int, tokens: int) -> Any:
        if self.most is not None and tokens > self.most:
            raise ValueError(f"{tokens} were asked for")
        for at in range(0, len(self.held[0]), size):
            yield tuple(each[at : at + size] for each in self.held)


def rows_of(tokens: np.ndarray, context: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rows = tokens[: len(tokens) // (context + 1) * (context + 1)].reshape(-1, context + 1)
    return rows[:, :-1], rows[:, 1:]


def judged(symbols: int = 50, context: int = 32, **more: Any) -> tuple[Known, np.ndarray]:
    """Random text of which nothing recurs, as what a judge holds out, and the text itself."""
    trained, held = np.random.default_rng(0).integers(0, symbols, (2, 40_000))
    plan = Given(rows_of(trained, context), rows_of(held, context), **more)
    return Known(Judge(data=plan, tokens=1024)), held


@pytest.mark.parametrize("symbols,context", [(50, 32), (4, 64), (50, 128)], ids=["letters", "DNA", "long rows"])
def test_a_text_is_found_wherever_it_is_cut_and_behind_a_prefix(symbols, context):
    known, held = judged(symbols, context)
    other = np.random.default_rng(1).integers(0, symbols, 40_000)
    shifted, others = rows_of(held[7:], context), rows_of(other, context)
    found = known.overlap([shifted])
    assert found.share > 0.99 and found.chance == 0 and found.leaked
    assert not known.overlap([others]).leaked
    marked = tuple(np.concatenate([np.zeros_like(each[:, :1]), each[:, :-1]], axis=1) for each in shifted)
    assert known.overlap([marked]).leaked  # a mark before each hides the start alone
    some = tuple(np.concatenate([a[:20], b[:180]]) for a, b in zip(shifted, others, strict=True))
    assert known.overlap([some]).share == 0.1 and known.overlap([some]).leaked


def test_what_recurs_by_chance_in_the_judges_own_training_side_is_no_leak():
    """Windows of two tokens recur in any text, so that nothing can be told."""
    known, held = judged(symbols=8, context=2)
    assert not known.overlap([rows_of(held[1:], 2)]).leaked


def passages(of: int, seed: int, count: int = 1500) -> np.ndarray:
    """Text of passages that recur, each one of so many, and of others that do not."""
    draw, known = np.random.default_rng(seed), np.random.default_rng(9).integers(0, 50, (of, 200))
    fresh = draw.integers(0, 50, (count, 200))
    return np.concatenate([known[draw.integers(of)] if draw.random() < 0.3 else row for row in fresh])


def test_few_examples_of_a_text_that_recurs_much_are_no_leak_by_luck():
    """64 examples where three in ten recur: one draw in ten is more than 4 % over chance."""
    plan = Given(rows_of(passages(40, 1)), rows_of(passages(40, 2)))
    known, rows = Known(Judge(data=plan, tokens=1024)), np.random.default_rng(4).permutation(6400)
    xs, ys = (each[rows] for each in rows_of(passages(40, 3)))
    found = [known.overlap([(xs[at : at + 64], ys[at : at + 64])]) for at in range(0, 6400, 64)]
    assert 0.2 < found[0].chance < 0.4 and not any(each.leaked for each in found)
    assert sum(each.share > each.chance + 0.04 for each in found) > 10


def test_shorter_rows_of_the_same_training_side_are_no_leak():
    """A short window recurs more often: chance is that of rows cut alike."""
    known = Known(Judge(data=wt.data.stdlib(context=128), tokens=1024))
    short = known.overlap(drawn(wt.data.stdlib(context=8)))
    assert short.share > 0.3 and not short.leaked


def test_rows_that_are_everywhere_do_not_count():
    """Easy text first: blanks are held out too, and more of them than chance."""
    text = np.random.default_rng(0).integers(0, 50, 40_000)
    blanks = np.where(np.arange(40_000) % 990 < 66, 32, text)  # a row in fifteen
    plan = Given(rows_of(text), rows_of(blanks))
    assert Known(Judge(data=plan, tokens=1024)).overlap([rows_of(np.full(4000, 32))]).share == 0.0


@pytest.mark.parametrize("kinds", [("sort",), ("copy", "sort"), ("brackets",), ("add",)])
def test_tasks_of_one_kind_are_no_leak(kinds):
    """Held-out prompts are never trained on, but most of a short prompt recurs."""
    known = Known(Judge(data=wt.data.tasks(), tokens=4096))
    assert not known.overlap(drawn(wt.data.tasks(kinds))).leaked


def test_what_judges_is_known_though_more_is_held_out_than_is_looked_at(monkeypatch):
    monkeypatch.setattr(overlap, "MOST_TOKENS", 8192)

    @dataclass(frozen=True)
    class Spread(Given):
        """Rows of those that are held out, evenly."""

        def held_out(self, *, size: int, tokens: int) -> Any:
            xs, ys = self.held
            rows = np.linspace(0, len(xs) - 1, tokens // 32).astype(int)
            for at in range(0, len(rows), size):
                yield xs[rows[at : at + size]], ys[rows[at : at + size]]

    trained, held = np.random.default_rng(0).integers(0, 50, (2, 400_000))
    plan = Spread(rows_of(trained), rows_of(held))
    examples = list(plan.held_out(size=8, tokens=1024))
    assert Known(Judge(data=plan, tokens=1024)).overlap(examples).share == 1.0


@pytest.mark.parametrize("stride", [1, 4])
def test_a_plan_that_starts_again_or_whose_rows_overlap_hides_nothing(stride):
    trained, held = np.random.default_rng(0).integers(0, 50, (2, 20_000))
    rows = np.lib.stride_tricks.sliding_window_view(held, 33)[:: 33 if stride == 1 else stride]
    rows = np.concatenate([rows] * (6 if stride == 1 else 1))
    known = Known(Judge(data=Given(rows_of(trained), (rows[:, :-1], rows[:, 1:])), tokens=1024))
    assert known.overlap([rows_of(held)]).share > 0.9


def test_a_plan_that_gives_no_more_than_it_holds_is_read_as_far_as_the_judge_reads():
    known, held = judged(most=1024)
    assert known.overlap([rows_of(held)]).leaked


def test_images_are_found_whole():
    images = np.random.default_rng(0).random((200, 3, 4, 4), dtype=np.float32)
    labels = np.arange(200)
    plan = Given((images[100:], labels[100:]), (images[:100], labels[:100]))
    known = Known(Judge(data=plan, tokens=100))
    found = known.overlap([(images[:50], labels[:50])])
    assert found.share == 1 and found.chance == 0 and found.leaked
    assert not known.overlap([(images[:50], labels[50:100])]).leaked  # relabelled, so another example
    digits = wt.data.digits()
    assert not Known(Judge(data=digits, tokens=16)).overlap(drawn(digits)).leaked


@pytest.mark.parametrize("first", range(8))
def test_other_draws_of_the_judges_own_data_are_no_leak(first):
    """The standard library recurs in itself by 5 %; a reference of 512 examples flagged 9 of 100 draws."""
    data = wt.data.stdlib(context=32)
    batches = (data.batch(seed=100 + first, step=step, size=32) for step in range(16))
    assert not Known(Judge(data=data, tokens=1024)).overlap(batches).leaked


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
