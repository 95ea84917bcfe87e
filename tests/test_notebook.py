"""What a notebook shows of each thing, and the notebooks of the documentation, which run."""

from __future__ import annotations

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_store import run

import windtunnel as wt
from windtunnel.notebook import ROWS, card
from windtunnel.runs import Outcome

HOSTILE = "<script>alert(1)</script>\" onload='x' <img src=x onerror=1>"
NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


class Reader(HTMLParser):
    """Tags, attributes and text, and that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags, self.text = set(), ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert {name for name, _ in attrs} <= {"style", "class", "scope", "colspan"}
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def table(idea: str = "base", gain: float = 1.0) -> wt.Observations:
    sizes = [(n, 20 * n) for n in (1e6, 2e6, 4e6, 8e6, 1.6e7, 3.2e7)]
    rows = [(n, d, seed, 1.8 + gain * 60 / n**0.3 + 0.002 * ((7 * seed + i) % 3))
            for i, (n, d) in enumerate(sizes) for seed in (0, 1)]  # fmt: skip
    params, tokens, seeds, losses = np.array(rows).T
    told = {"params": params, "tokens": tokens, "flops": 6 * params * tokens, "seed": seeds, "loss": losses}
    return wt.Observations(**told, idea=np.array([idea] * len(rows)))


def test_caveats_stand_before_what_is_said_and_hostile_text_is_text():
    shown = card(HOSTILE, says=HOSTILE, caveats=[HOSTILE], facts={HOSTILE: HOSTILE}, head=[HOSTILE], rows=[[HOSTILE]])
    found = Reader(shown)
    assert found.tags <= {"div", "ul", "li", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert found.text.count("<script>alert(1)</script>") == 7
    shown = card("title", says="the number", caveats=["the caveat"])
    assert shown.index("the caveat") < shown.index("the number")


def test_a_long_table_or_text_is_cut_and_says_so():
    shown = Reader(card("t", head=["n"], rows=[[i] for i in range(1000)])).text
    assert f"and {1000 - ROWS} more" in shown and len(Reader(card("x" * 10_000)).text) < 400


def test_a_run_shows_its_loss_and_a_failure_its_reason_first():
    text = Reader(run()._repr_html_()).text
    assert "finished, loss 2.5000" in text and "lr 0.01" in text and "study s, idea base, stage ladder" in text
    lost = run(loss=None, outcome=Outcome.DIVERGED, message=HOSTILE)._repr_html_()
    assert Reader(lost).text.index(HOSTILE) < Reader(lost).text.index("diverged, no loss")


def test_fit_forecast_and_verdict_show_numbers_with_intervals_and_their_caveats_first():
    runs, target = table(), wt.Target(params=1e9, tokens=2e10)
    fitted = wt.fit(runs)
    shown = Reader(fitted._repr_html_()).text
    assert "Fit of 12 runs" in shown and all(name in shown for name in fitted.shares())
    told = fitted.forecast(target)
    text = Reader(told._repr_html_()).text
    assert str(told.loss) in text and all(caveat[:200] in text for caveat in told.caveats)
    assert text.index(told.caveats[0][:200]) < text.index(f"loss {told.loss}")
    assert text.count(" yes ") + text.count(" no ") >= len(told.backtest.hidden) > 0
    failing = Reader(told.but(reliable=False)._repr_html_()).text
    assert failing.index("This forecast is not reliable: the caveats say why") < failing.index(f"loss {told.loss}")
    verdict = wt.compare(runs, table("idea", 0.9), target, name=HOSTILE)
    assert verdict.summary in Reader(verdict._repr_html_()).text


VALUES = {
    "Rung",
    "Target",
    "Address",
    "LeftOut",
    "Refusal",
    "Machine",
    "Place",
    "Files",
    "StandardLibrary",
    "HuggingFace",
    "Filled",
}  # what goes in, whose fields are what one types, and what only the command prints


def test_whatever_prints_itself_is_printed_in_a_notebook_too():
    package = Path(wt.__file__).parent
    bare, printed = set(), set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(getattr(each, "name", "") == "__str__" for each in node.body):
                told = [target.id for each in node.body if isinstance(each, ast.Assign) for target in each.targets]
                found = printed if "_repr_pretty_" in told else bare
                found.add(node.name)
    assert bare == VALUES and len(printed) > 40


class Printer:
    """IPython's pretty printer, as far as it is used."""

    def __init__(self, thing: Any) -> None:
        self.told = ""
        thing._repr_pretty_(self, False)

    def text(self, told: str) -> None:
        self.told += told


def test_what_has_no_card_is_told_in_a_few_lines_with_its_caveats_first():
    loss = np.linspace(3.4, 2.2, 12)
    half = wt.fit_task(loss, 0.25 + 0.6 / (1 + np.exp(4 * (loss - 2.2))), 0.25)
    told = Printer(half).told.splitlines()
    assert told[0] == f"caveat: {half.caveats[0]}" and told[1].startswith("score rises from 0.25 to ")
    shares = np.random.default_rng(0).dirichlet(np.ones(25), 60)
    mixed = Printer(wt.fit_mixture(shares, 3 - shares[:, 0])).told
    assert "25 domains" in mixed and "and 5 more" in mixed and "60 runs" in mixed
    runs = table()
    assert Printer(runs).told.splitlines()[:2] == [
        "12 run(s)", f"loss: {runs.loss.min():.4g} to {runs.loss.max():.4g}, 12 different",
    ]  # fmt: skip
    assert Printer(wt.Curve(np.arange(1, 9), np.full(8, 1e-3))).told.endswith("peak rate 0.001, no losses")
    rates = np.tile(np.geomspace(1e-3, 1e-2, 5), 12)
    swept = wt.Observations(
        params=np.repeat(runs.params, 5), tokens=np.repeat(runs.tokens, 5), lr=rates,
        loss=np.repeat(runs.loss, 5) * (1 + 0.02 * np.log(rates / 3e-3) ** 2),
    )  # fmt: skip
    assert "the best lr goes as params ** " in Printer(wt.fit_surface(swept)).told
    one = swept.where(swept.params == swept.params.min())
    assert "the best lr is believed to go as params ** -0.40" in Printer(wt.fit_surface(one)).told


def test_study_plan_and_answer_show_what_is_asked_what_it_takes_and_what_is_known(corpus: Path, tmp_path: Path):
    tiny = pytest.importorskip("tiny", reason="needs torch")
    study, store = tiny.study(str(corpus)), wt.Store(tmp_path / "store")
    text = Reader(study._repr_html_()).text
    assert study.name in text and all(name in text for name in study.recipes())
    planned = study.plan(store)
    shown = Reader(planned._repr_html_()).text
    assert str(planned).splitlines()[-1][:250] in shown and "tune" in shown
    assert study.name in Reader(study.answer(store)._repr_html_()).text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_of_the_documentation_runs_and_holds_what_it_showed(path: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), namespace)
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and "execute_result" in kinds
    assert all(cell["execution_count"] == number for number, cell in enumerate(cells, 1))
    text = path.read_text("utf-8")
    assert len(text) < 100_000 and not re.search(r"/tmp/|/home/|/root/", text)


def test_there_are_two_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"forecast_from_csv", "judge_an_idea"}
