"""The report room: what is drawn is what was measured, nothing from outside becomes markup, holes stay holes."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import math
import random
import re
import sys
import time
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are not part of the package

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.injection import payloads
from windtunnel.forecasts import worth
from windtunnel.report import basin_figure, coordinate_figure, difference_figure, loss_figure, words
from windtunnel.report import page as page_module
from windtunnel.report.draw import draw, element, legend
from windtunnel.report.marks import Axis, Band, Dots, FlatWhisker, Label, LevelRule, Line, Lost, Panel, Whisker
from windtunnel.report.page import gaps, ordered, render, write
from windtunnel.report.residual_figure import residual_panel
from windtunnel.report.scales import scale, ticks

pytestmark = pytest.mark.filterwarnings("error")

WIDTHS = (64, 96, 128, 192, 256)
TARGET_WIDTH = 768
HOSTILE = "<script>alert(1)</script>\"' onload=x"
VOID = {"meta", "link", "input", "br", "img"}


# an example study with a known law: loss = 2.1 + 9 / N^0.25, the idea 1.2 % better above its floor


def true_loss(params: float, gain: float = 1.0) -> float:
    return 2.1 + gain * 9 / params**0.25


def sizes(width: int) -> dict[str, Any]:
    params = 12 * 4 * width**2
    return {"params": params, "tokens": 20 * params, "flops": 120.0 * params**2, "width": width, "depth": 4}


def interval(median: float, half: float, level: float | None = 0.9) -> dict[str, Any]:
    return {"median": median, "low": median - half, "high": median + half, "level": level}


def example_points(name: str, gain: float, widths: tuple[int, ...], seeds: int, noise: random.Random) -> list[Any]:
    return [
        sizes(width)
        | {
            "key": f"{name}{width}{seed}",
            "seed": seed,
            "outcome": "finished",
            "loss": true_loss(sizes(width)["params"], gain) + noise.gauss(0, 0.006),
        }
        for width in widths
        for seed in range(seeds)
    ]


def example_band(gain: float, half: float) -> list[dict[str, Any]]:
    steps = [sizes(round(64 * (TARGET_WIDTH / 64) ** (i / 24))) for i in range(25)]
    return [
        {"params": s["params"], "flops": s["flops"], "tokens": s["tokens"]}
        | {k: v for k, v in interval(true_loss(s["params"], gain), half * (0.4 + i / 24)).items() if k != "level"}
        for i, s in enumerate(steps)
    ]


def example_recipe(name: str, gain: float, noise: random.Random, claim: str) -> dict[str, Any]:
    target = sizes(TARGET_WIDTH)
    points = example_points(name, gain, WIDTHS, 3, noise)
    points.append(points[-1] | {"key": f"{name}bad", "seed": 3, "loss": None, "outcome": "diverged"})
    truth = example_points(name, gain, (TARGET_WIDTH,), 2, noise)
    told, true = true_loss(target["params"], gain), truth[0]["loss"]
    backtest = [
        {"hidden": f"width {w}", "predicted": p + 0.004, "low": p - 0.02, "high": p + 0.03, "truth": p, "held": True}
        for w, p in ((w, true_loss(sizes(w)["params"], gain)) for w in WIDTHS[2:])
    ]
    return {
        "name": name,
        "claim": claim,
        "points": points,
        "truth": truth,
        "band": example_band(gain, 0.03),
        "forecast": {
            "target": {key: target[key] for key in ("params", "tokens", "flops")},
            "loss": interval(told, 0.031),
            "intervals": [{"level": 0.5, "low": told - 0.012, "high": told + 0.012}],
            "laws": [{"name": "power law with floor", "weight": 0.71}, {"name": "broken power law", "weight": 0.29}],
            "caveats": ["The target is 81x the compute of the largest rung."],
            "reliable": True,
            "backtest": backtest,
            "created": "2025-11-20T10:12:00+00:00",
            "hash": "9f3c" * 16,
            "key": "ab12cd34",
            "hyperparameters": {"lr": interval(0.0113, 0.0031)},
        },
        "score": {
            "truth": true,
            "error": told - true,
            "relative_error": (told - true) / true,
            "inside": True,
            "made_before": True,
        },
    }


def example_basin(recipe: str, width: int, stage: str, best: float, noise: random.Random) -> dict[str, Any]:
    def valley(rate: float) -> float:
        return true_loss(sizes(width)["params"]) + 0.035 * math.log2(rate / best) ** 2

    rates = [best * 2.0**k for k in range(-4, 4)]
    points = [
        {"value": rate, "loss": valley(rate) + noise.gauss(0, 0.004), "seed": 0, "outcome": "finished"}
        for rate in rates
    ]
    points.append({"value": rates[-1] * 2, "loss": None, "seed": 0, "outcome": "diverged"})
    fine = [best * 2.0 ** (k / 4) for k in range(-16, 13)]
    return {
        "recipe": recipe,
        "hyperparameter": "lr",
        "width": width,
        "stage": stage,
        "points": points,
        "fit": [{"value": rate, "loss": valley(rate)} for rate in fine],
        "optimum": {"median": best, "low": best / 1.3, "high": best * 1.3, "level": 0.9},
    }


def example_module(name: str, step: int, slope: float) -> dict[str, Any]:
    values = [0.8 * (1 + len(name) / 30) * (width / 64) ** slope for width in WIDTHS]
    return {"name": name, "step": step, "values": values, "slope": slope, "ok": abs(slope) < 0.15}


def example_coordinates(recipe: str) -> dict[str, Any]:
    names = [f"blocks.{i}.{part}" for i in range(4) for part in ("attention.out", "mlp.up", "mlp.down")]
    modules = [
        example_module(name, step, 0.01 * ((7 * i + step) % 9 - 4))
        for step in (1, 2, 4)
        for i, name in enumerate(names)
    ]
    return {
        "recipe": recipe,
        "widths": list(WIDTHS),
        "modules": [*modules, example_module("readout", 4, 0.31), example_module("embedding", 4, -0.22)],
    }


def example_verdict(base: dict[str, Any], idea: dict[str, Any]) -> dict[str, Any]:
    together = zip(base["points"], idea["points"], strict=True)
    pairs = [
        {key: b[key] for key in ("params", "flops", "seed")} | {"delta": i["loss"] - b["loss"]}
        for b, i in together
        if b["loss"] and i["loss"]
    ]
    band = [
        {"params": b["params"], "flops": b["flops"]}
        | {"median": i["median"] - b["median"], "low": i["median"] - b["median"] - 0.012}
        | {"high": i["median"] - b["median"] + 0.012}
        for b, i in zip(base["band"], idea["band"], strict=True)
    ]
    end = band[-1]
    return {
        "idea": idea["name"],
        "verdict": "helps",
        "delta": {"median": end["median"], "low": end["low"], "high": end["high"], "level": 0.9},
        "multiplier": interval(1.24, 0.17),
        "probability_better": 0.972,
        "n": len(pairs),
        "caveats": ["The difference shrinks with size."],
        "pairs": pairs,
        "band": band,
        "truth_delta": idea["truth"][0]["loss"] - base["truth"][0]["loss"],
    }


def example_past(study: str, inside: bool | None) -> dict[str, Any]:
    return {
        "study": study, "recipe": "base", "created": "2025-11-20T10:12:00+00:00", "place": "28.3M params, 566M tokens",
        "truth": 2.21, "n": 2, "relative_error": 0.004, "loss": interval(2.22, 0.03), "reliable": True, "held": True,
        "inside": None if inside is None else {0.5: False, 0.9: inside},
    }  # fmt: skip


def example_runs(recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    runs = [
        {key: point[key] for key in ("key", "outcome", "width", "depth", "params", "tokens", "flops", "seed", "loss")}
        | {"recipe": recipe["name"], "stage": "ladder", "batch": 32, "seconds": point["flops"] / 1e12}
        | {"hyperparameters": {"lr": 0.0113, "weight_decay": 0.1}, "device": "cpu x2"}
        | {"message": "" if point["loss"] else "loss was nan at step 312 of 960"}
        for recipe in recipes
        for point in recipe["points"]
    ]
    crashed = runs[0] | {"key": "crashed0", "outcome": "crashed", "loss": None, "seconds": None}
    return [*runs, crashed | {"message": "OutOfMemoryError: asked for 3.1 GiB, 2.2 GiB are free"}]


def example(ideas: tuple[str, ...] = ("sign_momentum",)) -> dict[str, Any]:
    """A finished study, as `study.py` hands it over."""
    noise = random.Random(3)
    base = example_recipe("base", 1.0, noise, "A decoder-only transformer under maximal update parametrization.")
    others = [
        example_recipe(name, 0.93 - 0.03 * i, noise, "Sign steps need fewer tokens than AdamW at equal compute.")
        for i, name in enumerate(ideas)
    ]
    recipes = [base, *others]
    runs = example_runs(recipes)
    return {
        "study": "sign-momentum",
        "created": "2025-11-20T10:12:00+00:00",
        "question": "Does stepping along the sign of the running mean gradient still pay at 28M parameters?",
        "answer": [
            "sign_momentum helps: 1.24 times the compute [1.07, 1.41] at 90 %, P(better) = 0.97.",
            "At 28.3M parameters its loss will be 2.21 [2.18, 2.24] at 90 %; the base reaches 2.22 [2.19, 2.26].",
            "Best learning rate there: 0.0113 [0.0082, 0.0144] at 90 %, carried up from width 64.",
        ],
        "caveats": ["The target is 81x the compute of the largest rung.", "Two runs of 33 were lost."],
        "recipes": recipes,
        "basins": [
            example_basin(recipe["name"], width, stage, rate, noise)
            for recipe in recipes
            for width, stage, rate in ((64, "tune", 0.0113), (96, "re-check", 0.0118), (128, "re-check", 0.0109))
        ],
        "transfer": [
            {
                "recipe": recipe["name"],
                "hyperparameter": "lr",
                "from_width": 64,
                "to_width": 128,
                "moved_log2": interval(-0.05, 0.3),
                "cost_relative": {"median": 0.0004, "low": 0.0, "high": 0.0031},
                "transfers": None if recipe["name"] == "base" else True,
                "sentence": f"{recipe['name']}: lr transfers from width 64 to 128 at a cost of 0.04 % of the loss.",
            }
            for recipe in recipes
        ],
        "coordinates": [example_coordinates(recipe["name"]) for recipe in recipes],
        "verdicts": [example_verdict(base, other) for other in others],
        "past": [example_past("sign-momentum", True), example_past("an older study", None)],
        "next": [
            {"recipe": "base", "place": "9.4M params, 189M tokens", "seeds": 2, "flops": 2.1e13, "share_of_budget": 0.7}
            | {"share_of_target": 0.02, "width_before": 0.062, "width_after": 0.041}
        ],
        "runs": runs,
        "cost": {
            "kilowatt_hours": 0.03,
            "tuning_runs": 22,
            "saved_flops": 2.1e16,
            "ladder_flops": 3.1e13,
            "tuning_flops": 0.9e13,
            "target_flops": 9.6e14,
            "share_of_target": 0.042,
            "seconds": 5460.0,
            "runs": len(runs),
            "finished": len(runs) - 3,
            "diverged": 2,
            "crashed": 1,
        },
        "repeat": {
            "command": "windtunnel run studies/sign_momentum.py --store runs --devices 2",
            "versions": {"windtunnel": "0.1.0", "torch": "2.9.0", "numpy": "2.3.5"},
            "study_file": "studies/sign_momentum.py",
            "study_sha256": "5e88" * 16,
            "store": "runs",
            "data_fingerprint": "77aa" * 8,
        },
    }


class Reader(HTMLParser):
    """Collects tags, text and attributes, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def finished() -> str:
    return render(example())


def everything_replaced(value: Any, text: str, keep: frozenset[str] = frozenset({"outcome", "stage"})) -> Any:
    if isinstance(value, dict):
        return {k: v if k in keep else everything_replaced(v, text, keep) for k, v in value.items()}
    if isinstance(value, list):
        return [everything_replaced(item, text, keep) for item in value]
    return f"{value}{text}" if isinstance(value, str) else value


def of_kind(panel: Panel, kind: type) -> list[Any]:
    return [mark for mark in panel.marks if isinstance(mark, kind)]


# the page


def test_page_is_well_formed_and_its_sections_come_in_order(finished: str):
    reader = Reader(finished)
    ids = [value for name, value in reader.attributes if name == "id"]
    wanted = [
        "loss",
        "verdicts",
        "basins",
        "transfer",
        "coordinates",
        "laws",
        "record",
        "next",
        "cost",
        "runs",
        "repeat",
    ]
    assert [name for name in ids if name in wanted] == wanted
    assert len(ids) == len(set(ids))


def test_caveats_stand_before_the_answer_and_the_answer_before_everything_measured(finished: str):
    text = Reader(finished).text
    wanted = ("Two runs of 33 were lost", "sign_momentum helps:", "Loss at the target in")
    assert sorted(wanted, key=text.index) == list(wanted)


def test_page_asks_nothing_of_any_network(finished: str):
    reader = Reader(finished)
    links = [value for name, value in reader.attributes if name in {"src", "href", "action", "xlink:href", "srcset"}]
    assert all(value.startswith("#") or value == "data:," for value in links)
    assert not re.search(r"https?:|@import|url\((?!#)|fetch\(|XMLHttp", finished)
    assert "default-src 'none'" in finished


def test_the_only_script_is_the_one_the_policy_allows(finished: str):
    scripts = re.findall(r"<script>(.*?)</script>", finished, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in finished


def test_names_from_outside_never_become_markup(finished: str):
    hostile = render(everything_replaced(example(), HOSTILE))
    assert "<script>alert" not in hostile
    ours, theirs = Reader(finished), Reader(hostile)
    assert theirs.tags.count("script") == ours.tags.count("script") == 1
    assert sorted(set(theirs.tags)) == sorted(set(ours.tags))
    assert not [name for name, _ in theirs.attributes if name.startswith("on")]
    assert theirs.text.count("<script>alert(1)") > 100  # they are all there, as text


@pytest.mark.parametrize("payload", payloads("http://127.0.0.1:9"))
def test_no_payload_becomes_a_tag_an_attribute_a_script_or_a_request(finished: str, payload: str):
    """`benchmarks/injection.py` opens each of these pages in a browser."""
    page = render(everything_replaced(example(), payload))
    ours, theirs = Reader(finished), Reader(page)
    assert sorted(set(theirs.tags)) == sorted(set(ours.tags)) and theirs.tags.count("script") == 1
    assert not [name for name, _ in theirs.attributes if name.startswith("on")]
    assert {name for name, _ in theirs.attributes} == {name for name, _ in ours.attributes}
    links = [value for name, value in theirs.attributes if name in {"src", "href", "action", "xlink:href", "srcset"}]
    assert all(value.startswith("#") or value == "data:," for value in links)
    assert re.findall(r"<script>(.*?)</script>", page, re.S) == re.findall(r"<script>(.*?)</script>", finished, re.S)
    assert "default-src 'none'" in page


def test_names_in_svg_are_escaped_in_text_hover_notes_and_attributes():
    basins = [example_basin(HOSTILE, 64, "tune", 0.01, random.Random(0)) | {"hyperparameter": HOSTILE}]
    (panel,) = basin_figure.basin_panels(basins)
    svg = str(draw(panel, 360, 290))
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    label = Panel(
        HOSTILE, HOSTILE, Axis(HOSTILE), Axis(HOSTILE), (Label(1.0, "<script>x"), Line(((1, 1), (2, 2)), "base"))
    )
    svg = str(draw(label, 360, 290))
    assert "<script" not in svg and 'aria-label="&lt;script' in svg


def test_study_without_runs_says_what_is_missing():
    text = Reader(render({"study": "empty"})).text
    for sentence in (
        "No run has been recorded yet",
        "No hyperparameter has been tuned yet",
        "Transfer has not been checked",
        "The coordinate check has not been made",
        "No recipe has a forecast yet",
        "No answer yet",
    ):
        assert sentence in text
    Reader(render({}))


@pytest.mark.parametrize("section", [*page_module.LISTS, "cost", "repeat", "question", "created", "study"])
@pytest.mark.parametrize("hole", [None, "empty"])
def test_any_one_section_may_be_missing(section: str, hole: Any):
    Reader(render(example() | {section: ([] if section in page_module.LISTS else None) if hole else None}))


def test_residuals_are_drawn_in_per_cent_and_named_where_the_dot_is():
    recipe = example()["recipes"][0]
    assert residual_panel(recipe) is None
    rows = [{"flops": 1e12, "loss": 2.02, "expected": 2.0}, {"flops": 1e13, "loss": None, "expected": 1.9}]
    panel = residual_panel(recipe | {"residuals": rows})
    (dots,) = of_kind(panel, Dots)
    assert [point[:2] for point in dots.points] == [(1e12, pytest.approx(1.0))] and "+1.00 %" in dots.points[0][2]
    study = example()
    study["recipes"][0]["residuals"] = rows
    assert "over what the averaged laws expect" in Reader(render(study)).text


def test_a_crossing_is_said_where_one_is_expected_and_else_nothing():
    study = example()
    assert "Gain over size" not in Reader(render(study)).text
    study["verdicts"][0] |= {"crossing": "expected to cross zero at 3.1G params [900M, 12G]"}
    assert "expected to cross zero at 3.1G params [900M, 12G]" in Reader(render(study)).text


def test_a_compute_multiplier_at_its_bounds_is_said_to_lie_beyond_them():
    assert words.MOST_TIMES == worth.MOST
    assert words.multiple({"median": 1.3, "low": 0.5, "high": 1000.0, "level": 0.9}).startswith(
        f"1.30{words.TIMES} [0.50, >1000]"
    )
    assert words.multiple({"median": 0.02, "low": 0.001, "high": 2.0}) == f"0.02{words.TIMES} [<0.001, 2.00]"
    assert words.multiple({"median": math.nan, "low": 1.0, "high": 2.0}) == "missing"


def test_every_optional_value_may_be_missing():
    study = example()
    study["recipes"][0] |= {"forecast": None, "score": None, "band": [], "truth": []}
    study["recipes"][1]["forecast"] |= {"loss": None, "target": {}, "laws": [], "backtest": [], "hyperparameters": {}}
    study["recipes"][1]["score"] = None
    for basin in study["basins"]:
        basin |= {"optimum": None, "fit": []}
    study["verdicts"][0] |= {"delta": None, "multiplier": None, "probability_better": None, "truth_delta": None}
    study["verdicts"][0] |= {"band": []}
    for check in study["transfer"]:
        check |= {"moved_log2": None, "cost_relative": None}
    for check in study["coordinates"]:
        check["modules"] = [m | {"slope": None, "values": [None] * len(WIDTHS)} for m in check["modules"]]
    study["runs"] = [run | dict.fromkeys(("loss", "batch", "seconds", "params", "device")) for run in study["runs"]]
    study["cost"] = dict.fromkeys(study["cost"])
    text = render(study)
    assert "None" not in Reader(text).text
    assert not re.search(r'\bnan\b|="None"', text.replace("loss was nan at step", ""))


def test_a_missing_loss_is_shown_as_missing_not_as_zero():
    run = example()["runs"][0] | {"loss": None, "outcome": "diverged", "message": "loss was inf"}
    text = render({"study": "one", "runs": [run]})
    row = text[text.index("<tbody>") : text.index("</tbody>")]
    assert "missing" in row and "loss was inf" in row and "0.0000" not in row


def test_failed_runs_come_first_and_keep_their_message(finished: str):
    outcomes = [run["outcome"] for run in ordered(example()["runs"])]
    assert outcomes[:3] == ["diverged", "diverged", "crashed"] and set(outcomes[3:]) == {"finished"}
    assert "OutOfMemoryError" in finished and "loss was nan at step 312 of 960" in finished


def test_unreliable_forecast_says_so_before_its_number():
    study = example()
    study["recipes"][1]["forecast"]["reliable"] = False
    text = Reader(render(study)).text
    assert text.index("sign_momentum fails its own backtest") < text.index("sign_momentum helps:")
    laws = text[text.index("Laws, backtest") :]
    assert laws.index("fails its backtest") < laws.rindex("Loss at the target")
    assert "fails its" not in Reader(render(example())).text


def test_forecast_made_after_the_truth_is_called_no_forecast():
    study = example()
    study["recipes"][0]["score"]["made_before"] = False
    assert "after the truth: no forecast" in Reader(render(study)).text


def test_gaps_of_a_finished_study_are_none_and_of_a_running_one_are_named():
    study = example()
    assert gaps(study) == []
    study["recipes"][1] |= {"forecast": None, "score": None}
    study["recipes"][0]["score"] = None
    assert gaps(study | {"verdicts": []}) == [
        "No forecast for sign_momentum yet.",
        "No verdict on sign_momentum yet.",
        "The target has not been trained for base: no truth yet.",
    ]


def test_unknown_section_is_refused_with_its_name():
    with pytest.raises(ValueError, match="no section forecasts; it has study"):
        render({"forecasts": []})


def test_rendering_does_not_change_the_data_and_is_repeatable():
    study = example()
    before = json.dumps(study)
    assert render(study) == render(study)
    assert json.dumps(study) == before


def test_ten_thousand_runs_render_in_a_few_seconds():
    study = example()
    study["runs"] = [study["runs"][i % 30] | {"key": f"{i:020x}"} for i in range(10_000)]
    points = study["recipes"][0]["points"]
    study["recipes"][0]["points"] = [points[i % len(points)] for i in range(10_000)]
    start = time.process_time()
    text = render(study)
    assert time.process_time() - start < 6
    assert text.count("<tr>") > 10_000 and len(text) < 14e6


def test_write_replaces_the_page_in_one_step_and_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "new" / "report.html"
    assert write({"study": "first"}, path) == path
    write({"study": "second"}, path)
    assert "second" in path.read_text("utf-8") and [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(ValueError):
        write({"oops": 1}, path)
    assert "second" in path.read_text("utf-8") and [p.name for p in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "path,shown", [("caf\udcc3\udca9", "café"), ("caf\udce9", "caf\ufffd"), ("caf\ud800", "caf\ufffd")]
)
def test_a_path_that_python_could_not_decode_is_written_as_well_as_it_can_be(path, shown, tmp_path):
    repeat = example()["repeat"] | {"store": path, "command": f"windtunnel run study.py --store {path}"}
    page = write(example() | {"repeat": repeat}, tmp_path / "page.html").read_text("utf-8")
    assert page.count(f"windtunnel run study.py --store {shown}") == 1


# what the figures show


def test_loss_figure_shows_every_finished_run_once_and_every_failure_as_a_cross():
    recipes = example()["recipes"]
    (panel,) = loss_figure.loss_panels(recipes)
    shown = sorted(point[:2] for mark in of_kind(panel, Dots) if mark.shape == "disc" for point in mark.points)
    assert shown == sorted((p["flops"], p["loss"]) for r in recipes for p in r["points"] if p["loss"])
    assert sum(len(mark.points) for mark in of_kind(panel, Lost)) == 2
    truths = [mark.points for mark in of_kind(panel, Dots) if mark.shape == "diamond"]
    assert sorted(point[1] for points in truths for point in points) == sorted(
        t["loss"] for r in recipes for t in r["truth"]
    )


def test_loss_figure_is_dashed_exactly_beyond_the_largest_rung():
    recipe = example()["recipes"][0]
    (panel,) = loss_figure.loss_panels([recipe])
    solid, dashed = of_kind(panel, Line)
    top = max(point["flops"] for point in recipe["points"])
    assert max(x for x, _ in solid.points) <= top < dashed.points[1][0]
    assert solid.points[-1] == dashed.points[0] and dashed.dashed


def test_loss_figure_puts_the_forecast_at_the_target():
    recipe = example()["recipes"][0]
    (panel,) = loss_figure.loss_panels([recipe])
    (whisker,) = of_kind(panel, Whisker)
    told = recipe["forecast"]["loss"]
    assert whisker.x == recipe["forecast"]["target"]["flops"]
    assert (whisker.low, whisker.median, whisker.high) == (told["low"], told["median"], told["high"])


def test_each_idea_has_its_own_panel_beside_the_base_on_one_scale():
    panels = loss_figure.loss_panels(example(("one", "two", "three"))["recipes"])
    assert [panel.title for panel in panels] == ["one and base", "two and base", "three and base"]
    assert len({(panel.y.low, panel.y.high) for panel in panels}) == 1


def test_loss_figure_does_not_depend_on_the_order_of_the_band():
    recipe = example()["recipes"][0]
    turned = recipe | {"band": recipe["band"][::-1]}
    assert loss_figure.loss_panels([recipe]) == loss_figure.loss_panels([turned])


def test_difference_figure_shows_zero_the_pairs_the_law_and_the_truth():
    verdict = example()["verdicts"][0]
    panel = difference_figure.difference_panel(verdict)
    assert [rule.y for rule in of_kind(panel, LevelRule)] == [0.0] and not panel.y.log
    pairs, truth = of_kind(panel, Dots)
    assert [point[:2] for point in pairs.points] == [(pair["flops"], pair["delta"]) for pair in verdict["pairs"]]
    assert truth.points[0][1] == verdict["truth_delta"]
    assert len(of_kind(panel, Band)[0].points) == len(verdict["band"])


def test_basin_figure_has_a_panel_a_recipe_a_curve_a_width_and_its_optimum():
    panels = basin_figure.basin_panels(example()["basins"])
    assert [panel.title for panel in panels] == ["base: lr", "sign_momentum: lr"]
    assert [label.text for label in of_kind(panels[0], Label)] == ["width 64", "width 96", "width 128"]
    assert [whisker.median for whisker in of_kind(panels[0], FlatWhisker)] == [0.0113, 0.0118, 0.0109]
    assert [mark.shape for mark in of_kind(panels[0], Dots)] == ["disc", "ring", "ring"]


def test_basin_far_above_the_valley_is_a_cross_that_still_tells_its_loss():
    basin = example_basin("base", 64, "tune", 0.01, random.Random(0))
    basin["points"].append({"value": 1.0, "loss": 60.0, "seed": 0, "outcome": "finished"})
    (panel,) = basin_figure.basin_panels([basin])
    notes = [note for mark in of_kind(panel, Lost) for _, note in mark.points]
    assert len(notes) == 2 and any("60.0000" in note for note in notes)
    assert max(y for mark in of_kind(panel, Dots) for y in mark.ys()) < 10


def test_coordinate_figure_separates_flat_modules_from_the_others_and_names_the_others():
    check = example_coordinates("base")
    panels = coordinate_figure.coordinate_panels([check])
    assert [panel.title for panel in panels] == [f"base: after {s}" for s in ("1 step", "2 steps", "4 steps")]
    assert [mark.tone for mark in of_kind(panels[2], Line)].count("alarm") == 2
    assert {label.text for label in of_kind(panels[2], Label)} == {"readout", "embedding"}
    assert panels[0].x.ticks == tuple(float(width) for width in WIDTHS)


def test_worst_slopes_come_first_whatever_their_sign_and_a_missing_one_before_all():
    modules = [example_module(name, 1, slope) for name, slope in (("a", 0.1), ("b", -0.4), ("c", 0.2))]
    check = {"modules": [*modules, modules[0] | {"name": "lost", "slope": None}]}
    assert [m["name"] for m in coordinate_figure.worst_slopes(check, most=3)] == ["lost", "b", "c"]


# drawing


def test_no_coordinate_is_ever_nan_even_where_the_data_are():
    bad = [None, math.nan, math.inf, -1.0, 0.0]
    recipe = example()["recipes"][0]
    points = [recipe["points"][0] | {"loss": value} for value in bad] + [
        recipe["points"][0] | {"flops": v} for v in bad
    ]
    holes = [recipe["band"][0] | {"low": value} for value in bad]
    study = example() | {"recipes": [recipe | {"points": points, "band": [*recipe["band"], *holes]}]}
    svg = "".join(re.findall(r"<svg.*?</svg>", render(study), re.S))
    assert "nan" not in svg.lower() and "inf" not in re.sub(r"[a-z]*inf[a-z]+", "", svg.lower())


def test_element_refuses_a_number_that_is_not_finite():
    with pytest.raises(ValueError, match="must be left out"):
        element("circle", cx=math.nan)


def test_dots_lie_where_their_values_are():
    dots = Dots(((1.0, 1.0, ""), (10.0, 10.0, ""), (100.0, 100.0, "")), "base")
    svg = str(draw(Panel("", "", Axis("x"), Axis("y"), (dots,)), 400, 300))
    xs, ys = ([float(v) for v in re.findall(rf'{c}="([\d.]+)"', svg)] for c in ("cx", "cy"))
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11) and xs[0] < xs[1]
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.11) and ys[0] > ys[1]


def test_drawing_stays_inside_its_frame():
    for panel in [*loss_figure.loss_panels(example()["recipes"]), *basin_figure.basin_panels(example()["basins"])]:
        for width, height in ((350, 330), (900, 440)):
            svg = str(draw(panel, width, height))
            xs = [float(v) for v in re.findall(r'\bc?x="(-?[\d.]+)"', svg)]
            ys = [float(v) for v in re.findall(r'\bc?y="(-?[\d.]+)"', svg)]
            assert min(*xs, *ys) >= 0 and max(xs) <= width and max(ys) <= height


def test_words_too_long_for_their_panel_are_cut_and_never_leave_it():
    axis = Axis("a very long name of a hyperparameter " * 5)
    svg = str(draw(Panel("", "", axis, axis, (Line(((1, 1), (2, 9)), "base"), Label(5.0, "block." * 30))), 310, 270))
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert max(len(word) for word in words) * 7 <= 310 and sum("…" in word for word in words) == 3


def test_labels_in_the_margin_never_overlap():
    labels = tuple(Label(1 + i / 1000, f"width {i}") for i in range(6))
    panel = Panel("", "", Axis("x"), Axis("y"), (*labels, Line(((1, 1), (2, 9)), "base")))
    found = re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="start" class="label"', str(draw(panel, 360, 290)))
    heights = sorted(float(y) for y in found)
    assert len(heights) == 6 and all(b - a >= 12.9 for a, b in pairwise(heights))


def test_legend_names_each_kind_of_mark_once():
    names = [name for _, name in legend(basin_figure.basin_panels(example()["basins"]))]
    assert names == ["diverged, crashed or off the scale", "optimum, with interval"]


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e4), st.sampled_from([3, 4, 5, 9]))
def test_an_even_axis_has_two_ticks_or_more_and_no_more_than_asked(low: float, span: float, most: int):
    """Three at most on a range about zero gave zero alone."""
    assert 2 <= len(ticks(scale([low, low + max(span, abs(low) * 1e-3)], start=0, end=100, log=False), most)) <= most


def test_a_mark_says_which_names_of_the_legend_hide_it():
    (panel, *_) = loss_figure.loss_panels(example(("sign_momentum",))["recipes"])
    names = [name for _, name in legend([panel])]
    drawn = ElementTree.fromstring(str(draw(panel, 900, 440, names)))
    said = {
        frozenset(names[int(at)] for at in group.get("data-s", "").split())
        for group in drawn.iter("g")
        if group.get("data-s")
    }
    assert {"one run, one seed", "base"} in said and {"sign_momentum", "forecast at the target"} in said
    assert all(one & {"base", "sign_momentum"} for one in said)  # so that a recipe is hidden whole
    assert not [group for group in ElementTree.fromstring(str(draw(panel, 900, 440))).iter("g") if group.get("data-s")]


@pytest.mark.parametrize(
    ("low", "high"),
    [(3.1, 4.4), (1e12, 1e19), (0.001, 0.3), (64, 768), (1, 1e30), (2.5, 2.5), (1e-9, 1e-8), (3, 3.001)],
)
@pytest.mark.parametrize("log", [True, False])
def test_ticks_are_few_round_and_inside(low: float, high: float, log: bool):
    axis = scale([low, high], start=0, end=400, log=log)
    found = ticks(axis, 6)
    assert 2 <= len(found) <= 7
    assert all(axis.low <= value <= axis.high for value in found)
    assert len({words.plain(value, 6) for value in found}) == len(found)


# words


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (words.si(1_234_567), "1.23M"),
        (words.si(3e21), "3·10²¹"),
        (words.si(1e24), "10²⁴"),
        (words.si(None), "missing"),
        (words.plain(0.0113), "0.0113"),
        (words.plain(1.2e-5), "1.2·10⁻⁵"),
        (words.plain(4096), "4096"),
        (words.plain(-0.05), "\N{MINUS SIGN}0.05"),
        (words.signed(-0.0312), "\N{MINUS SIGN}0.0312"),
        (words.percent(0.9), "90\N{NO-BREAK SPACE}%"),
        (words.percent(0.0004), "0.04\N{NO-BREAK SPACE}%"),
        (words.interval(interval(2.7312, 0.031)), "2.731 [2.700, 2.762] at 90\N{NO-BREAK SPACE}%"),
        (words.interval(interval(2.7312, 0.031, level=None)), "2.731 [2.700, 2.762]"),
        (words.interval(None), "missing"),
        (words.optimum({"median": 0.05, "low": 0.0031, "high": 0.9912}), "0.05 [0.0031, 0.991]"),
        (words.optimum({"median": 0.05, "low": None, "high": 1.0}), "missing"),
        (words.interval({"median": 1.0, "low": None, "high": 2.0}), "missing"),
        (words.duration(12_000), "3 h 20 min"),
        (words.duration(59.6 * 60), "1 h 0 min"),
        (words.duration(None), "missing"),
        (words.loss(math.nan), "missing"),
        (words.plural(0, "run"), "no runs"),
    ],
)
def test_numbers_read_as_a_person_would_write_them(said: str, wanted: str):
    assert said == wanted


def test_an_interval_shows_two_digits_of_its_own_width():
    for half in (3.0, 0.3, 0.03, 0.003):
        shown = words.interval(interval(2.0, half, level=None))
        low, high = (float(v.replace("\N{MINUS SIGN}", "-")) for v in re.findall(r"\[(\S+), (\S+)\]", shown)[0])
        assert high - low == pytest.approx(2 * half, rel=0.06)


def test_report_imports_only_what_lies_below_it():
    allowed = {"forecasts", "laws", "store", "places", "runs", "recipe", "ladder", "errors", "notebook", "report"}
    for path in Path(page_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "torch"]
            assert all(n.split(".")[1] in allowed for n in names if n.startswith("windtunnel.")), path


if __name__ == "__main__":  # python tests/test_report.py PATH: look at the example
    import sys

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        print(write(example(tuple(sys.argv[2:]) or ("sign_momentum",)), sys.argv[1]))
