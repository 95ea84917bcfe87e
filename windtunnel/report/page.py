"""The report page: `render` turns a study's plain data into one HTML text, `write` puts it on disk.

The template reads the data directly; here are only the pictures, the gaps and the rows that need thought. Everything
from outside is escaped by jinja2 or by `draw.element`, and the page's own policy forbids any other script or request.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from windtunnel.errors import Paused
from windtunnel.places import FULL, unwritable
from windtunnel.recipe import UNIT
from windtunnel.report import words
from windtunnel.report.basin_figure import basin_panels, optima
from windtunnel.report.coordinate_figure import coordinate_panels, worst_slopes
from windtunnel.report.difference_figure import difference_panel
from windtunnel.report.draw import draw, legend
from windtunnel.report.loss_figure import level, loss_panels
from windtunnel.report.marks import Panel
from windtunnel.report.record import held
from windtunnel.report.residual_figure import residual_panel

LISTS = (
    "answer",
    "caveats",
    "recipes",
    "basins",
    "transfer",
    "coordinates",
    "verdicts",
    "past",
    "next",
    "flying",
    "runs",
)
_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte of a path
NOUNS = ("study", "created", "question", "unit", *LISTS, "cost", "repeat")


def render(data: Mapping[str, Any], *, live: bool = False, records: str | None = None) -> str:
    """The whole page. Sections that `data` lacks, or holds empty, are shown as missing; an unknown one is an error.

    `live` True: it asks its own server for news. `records`: where the folders of runs lie, seen from the page; the run
    table links to them.
    """
    unknown = sorted(set(data) - set(NOUNS))
    if unknown:
        raise ValueError(f"The report knows no section {', '.join(unknown)}; it has {', '.join(NOUNS)}.")
    study = dict.fromkeys(NOUNS) | {name: [] for name in LISTS} | {k: v for k, v in data.items() if v is not None}
    shown = study | _prepared(study) | _scripts(live) | {"live": live, "records": records}
    return environment().get_template("page.html.jinja").render(shown)


def listing(where: str, studies: Sequence[Mapping[str, Any]], error: str = "") -> str:
    """The live page that lists studies: name, id, and where known the number of runs and the answer's first line.

    `error` says why there may be others.
    """
    return _live({"title": where, "studies": studies, "error": error})


def waiting(name: str, error: str = "") -> str:
    """The live page of a study that is not built yet, or cannot be."""
    return _live({"title": name, "studies": None, "error": error})


def _live(shown: Mapping[str, Any]) -> str:
    style_ = {"style": style()}
    return environment().get_template("live.html.jinja").render({**shown, **style_, **_scripts(live=True)})


def write(data: Mapping[str, Any], path: str | os.PathLike[str], *, records: str | None = None) -> Path:
    """Write the page to `path`, replacing an older one in a single step; returns the path. Paused on a full disk."""
    final, text = Path(path), render(data, records=records)
    try:
        return _replaced(final, text)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Paused(
            f"{unwritable(error, str(final), len(text))}. The runs are kept; make room and ask again."
        ) from None


def utf8(text: str) -> bytes:
    """A page as bytes. Of a path that Python could not decode, what is UTF-8 is shown as such; the rest is replaced."""
    as_they_were = _NO_BYTE.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "surrogateescape")
    return as_they_were.decode("utf-8", "replace").encode()


def _replaced(final: Path, text: str) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(utf8(text))
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, final)
    except BaseException:
        os.unlink(temporary)
        raise
    return final


def warnings(study: Mapping[str, Any]) -> list[str]:
    """What must be read before any number: the study's caveats, and each forecast that fails its own backtest."""
    failing = [r["name"] for r in study["recipes"] if r["forecast"] and not r["forecast"]["reliable"]]
    if len(failing) == 1:
        said = [f"The forecast for {failing[0]} fails its own backtest."]
    else:
        said = [f"The forecasts for {', '.join(failing)} fail their own backtests."] if failing else []
    return said + list(study["caveats"])


def gaps(study: Mapping[str, Any]) -> list[str]:
    """What a finished study would have and this one does not, one sentence each."""
    recipes = study["recipes"]
    found = [] if study["runs"] else ["No run has been recorded yet: nothing below is measured."]
    found += [] if study["basins"] else ["No hyperparameter has been tuned yet."]
    found += [] if study["transfer"] else ["Transfer has not been checked: no re-check at a larger width."]
    found += [] if study["coordinates"] else ["The coordinate check has not been made."]
    found += [f"No forecast for {recipe['name']} yet." for recipe in recipes if not recipe["forecast"]]
    found += [] if recipes else ["No recipe has a forecast yet."]
    judged = {verdict["idea"] for verdict in study["verdicts"]}
    ideas = [recipe["name"] for recipe in recipes if recipe["name"] != "base"]
    found += [f"No verdict on {idea} yet." for idea in ideas if idea not in judged]
    untested = [recipe["name"] for recipe in recipes if recipe["forecast"] and not recipe["score"]]
    found += [f"The target has not been trained for {', '.join(untested)}: no truth yet."] if untested else []
    return found


def ordered(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs in their order, those that failed first, so that no failure hides at the bottom of a long table."""
    return sorted(runs, key=lambda run: run["outcome"] == "finished")


def counted(runs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many runs ended how, the usual outcome first."""
    outcomes = [run["outcome"] for run in runs]
    names = ["finished", *sorted(set(outcomes) - {"finished"})]
    return {name: outcomes.count(name) for name in names if name in outcomes}


def picture(panel: Panel, width: int, height: int, narrow: bool = False, series: Sequence[str] = ()) -> dict[str, Any]:
    """A drawn panel; with `narrow`, drawn a second time for a phone, so that its letters keep their size."""
    small = draw(panel, 350, 330, series) if narrow else None
    return {"title": panel.title, "wide": draw(panel, width, height, series), "narrow": small}


def _prepared(study: Mapping[str, Any]) -> dict[str, Any]:
    unit = study["unit"] or UNIT
    loss = loss_panels(study["recipes"], unit)
    basins, coordinates = basin_panels(study["basins"], unit), coordinate_panels(study["coordinates"])
    differences = [difference_panel(verdict, unit) for verdict in study["verdicts"]]
    return {
        "unit": unit,
        "warnings": warnings(study),
        "gaps": gaps(study),
        "level": level(study["recipes"]),
        "loss_figure": figure(loss, large=len(loss) == 1),
        "basin_figure": figure(basins),
        "coordinate_figure": figure(coordinates),
        "differences": [figure([panel], 400, 300) for panel in differences],
        "residuals": [figure([panel], 560, 230) if panel else None for panel in map(residual_panel, study["recipes"])],
        "optima": optima(study["basins"]),
        "slopes": [(check["recipe"], worst_slopes(check), len(check["modules"])) for check in study["coordinates"]],
        "held": held(study["past"]),
        "ordered": ordered(study["runs"]),
        "counted": counted(study["runs"]),
        "style": style(),
    }


def _scripts(live: bool) -> dict[str, Any]:
    """The page's own scripts, and the hashes by which its policy lets them and nothing else run."""
    scripts = [_text("page.js") + _text("figures.js"), *([_text("live.js")] if live else [])]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = Markup(" ".join(f"'sha256-{digest}'" for digest in digests))
    return {"script": Markup(scripts[0]), "live_script": Markup(scripts[-1]), "script_hash": hashes}


def figure(panels: Sequence[Panel], width: int = 310, height: int = 270, large: bool = False) -> dict[str, Any] | None:
    """Drawn panels with their legend, for a template; None without panels."""
    if not panels:
        return None
    keys = legend(panels)
    names = [name for _, name in keys]
    size = (900, 440, True) if large else (width, height, False)
    return {"pictures": [picture(panel, *size, names) for panel in panels], "legend": keys, "large": large}


def style() -> Markup:
    """The style sheet that all pages share."""
    return Markup(_text("page.css"))


@cache
def environment() -> Environment:
    """Templates of this room, everything escaped, with the words of `words` as filters."""
    found = Environment(
        loader=FunctionLoader(_text), autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    formats = (words.si, words.plain, words.loss, words.signed, words.percent, words.interval, words.duration)
    formats += (words.optimum, words.multiple, words.pairs, words.plural, words.tied)
    found.filters |= {function.__name__: function for function in formats}
    found.tests["known"] = words.known
    return found


@cache
def _text(name: str) -> str:
    return files("windtunnel.report").joinpath(name).read_text("utf-8")
