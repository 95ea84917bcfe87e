"""Train what the gallery misses, and write its table: docs/gallery.md, from stored runs and nothing else.

    python -m studies.gallery [--store runs/gallery] [--devices 2] [--table] [--only "few labels" ...] [--ladders ...]

`--table` trains nothing: what is not trained is left out and said. `--only` trains and measures these single claims
alone (each keeps its figures in a file of its own in `checked/`), `--ladders` these ladders alone. About two hours on
two CPU cores.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import windtunnel as wt
from studies.gallery import adapted, checks_anchors, checks_continual, checks_data, checks_hard
from studies.gallery.adapted import ADAPTED
from studies.gallery.checks import CHECKS, Line
from studies.gallery.checks_search import SEARCHES
from studies.gallery.labels import study as labels
from studies.gallery.moved import study as moved
from studies.gallery.networks import NETWORKS
from studies.gallery.study import study
from windtunnel.launch.here import Here
from windtunnel.study.answer import Result, answer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "gallery.md"
TIMES = (10, 100)
KEPT, LADDER = HERE / "checked", HERE / "results.json"
LADDERS = {
    "Byte transformers on the standard library's source": study,
    "Digits of which a fifth is labelled wrong": labels,
    "Byte transformers moved from English prose to source, judged on the source": moved,
}
OF_DATA = checks_data.CHECKS | checks_hard.CHECKS | checks_continual.CHECKS | checks_anchors.CHECKS
NAMED = {ladder.name: ladder for ladder in LADDERS.values()}
ALL_CHECKS = CHECKS | NETWORKS | ADAPTED | SEARCHES | OF_DATA


HEAD = """# Gallery

Written by `python -m studies.gallery` from stored runs; failures and nulls stay in. Every idea is one file in
`windtunnel/ideas/`.

## On ladders

Every idea beside one base at each rung, {seeds} seeds paired with it; each recipe has its own tuning ({points} values,
then {points} around the best). The gap is the idea's expected loss minus the base's, in percent of it, with its 90 %
interval: the ladder's is what was measured, the others are forecasts that nobody has trained. The multiplier is base
compute for the idea's loss over the idea's own compute, at 10 times the top rung's.
"""
TABLE = """### {about}

Widths {widths}, depth {depth}, {tokens:,} tokens a run.

| idea | gap on the ladder, % | at 10x compute | at 100x | multiplier | verdict at 10x |
|---|---|---|---|---|---|"""
SINGLE = """## Single claims

Handwritten digits and a perceptron of width 64 where nothing else is said; means over paired seeds, 90 % intervals.
Bars are the ones that were proposed before measuring; one is met only if the whole interval is.

| idea | measured | figure | n | bar | |
|---|---|---|---|---|---|"""


def at(study: wt.Study, result: Result, name: str, times: float) -> wt.Verdict:
    """The verdict at `times` the compute of the base's top rung, at the ladder's own horizon."""
    top = max((run for run in result.ladder["base"] if run.finished), key=lambda run: run.size.params)
    target = wt.Target(params=top.size.params * times, tokens=top.spec.rung.tokens)
    return wt.compare(result.ladder["base"], result.ladder[name], target, name=name, study=study.name)


def rows(study: wt.Study, result: Result) -> list[dict[str, Any]]:
    """A row an idea whose ladder is trained."""
    found, widths = [], [rung.width for rung in study.ladder.rungs]
    for idea in study.ideas:
        runs = result.ladder.get(idea.__name__, ())
        losses = {w: [r.loss for r in runs if r.spec.rung.width == w] for w in widths}
        if sum(map(len, losses.values())) < len(widths) * study.ladder.seeds:
            continue
        verdicts = {times: at(study, result, idea.__name__, times) for times in TIMES}
        found.append({
            "idea": idea.__name__,
            "claim": inspect.getdoc(idea),
            "losses": losses,
            "failed": [f"{r.key[:8]} {r.outcome}: {r.message}" for r in runs if not r.finished],
            "verdicts": {str(times): verdict.to_json() for times, verdict in verdicts.items()},
        })  # fmt: skip
    return found


def checked() -> list[Line]:
    """The lines that every check left, in order."""
    kept = [KEPT / f"{name.replace(' ', '_')}.json" for name in ALL_CHECKS]
    return [_line(each) for file in kept if file.is_file() for each in json.loads(file.read_text())]


def check(name: str, store: wt.Store) -> None:
    """Measure one claim, and keep its lines."""
    KEPT.mkdir(exist_ok=True)
    lines = [asdict(line) for line in ALL_CHECKS[name](store)]
    (KEPT / f"{name.replace(' ', '_')}.json").write_text(json.dumps(lines, indent=1) + "\n")


def _line(said: dict[str, Any]) -> Line:
    from studies.gallery.arms import Difference

    return Line(**said | {"value": Difference(**said["value"])})


def page(found: dict[str, list[dict[str, Any]]], lines: Sequence[Line]) -> str:
    """The gallery as Markdown; `found` by the names of ladders."""
    out = [HEAD.format(seeds=study.ladder.seeds, points=study.tuning.points)]
    for about, ladder in LADDERS.items():
        rungs, told = ladder.ladder.rungs, found.get(ladder.name, [])
        widths = ", ".join(str(rung.width) for rung in rungs)
        out += [TABLE.format(about=about, widths=widths, depth=rungs[0].depth, tokens=rungs[0].tokens)]
        out += [*[_row(row) for row in told], ""]
        out += [*[f"- **{row['idea']}**: {_plain(row['claim'])}" for row in told], ""]
        failed = [f"- {row['idea']}: {said}" for row in told for said in row["failed"]]
        if failed:
            out += ["Runs that did not finish, left out of the gaps:", "", *failed, ""]
    if lines:
        out += [SINGLE, *[_single(line) for line in lines], ""]
    return "\n".join(out)


def _row(row: dict[str, Any]) -> str:
    near, far = (row["verdicts"][str(times)] for times in TIMES)
    times = near["compute_multiplier"]
    cells = [_percent(near["ladder"]), _percent(near["relative"]), _percent(far["relative"])]
    low, middle, high = (_times(times[name]) for name in ("low", "median", "high"))
    worth = f"{middle} [{low}, {high}]"
    return f"| {row['idea']} | {' | '.join(cells)} | {worth} | {near['verdict']} |"


def _times(multiple: float) -> str:
    """A compute multiplier; at the bound nothing more is known than that it is beyond."""
    return ">500" if multiple > 500 else f"{multiple:.3g}"


def _single(line: Line) -> str:
    value = line.value
    figure = f"{value.value:.2f}" + (f" [{value.low:.2f}, {value.high:.2f}]" if value.pairs > 1 else "")
    held = "" if line.holds is None else "met" if line.holds else "missed"
    return f"| {line.idea} | {line.measured} | {figure} | {value.pairs} | {line.bar} | {held} |"


def _percent(interval: dict[str, float]) -> str:
    return f"{100 * interval['median']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"


def _plain(claim: str) -> str:
    return " ".join(claim.split())


def _on_the_ladder(study: wt.Study, store: wt.Store, devices: int | None, table: bool) -> list[dict[str, Any]]:
    return rows(study, answer(study, store) if table else study.run(store, launcher=Here(devices=devices)))


def main() -> None:
    """Train, unless told not to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs/gallery")
    parser.add_argument("--devices", type=int)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--only", nargs="+", choices=ALL_CHECKS, metavar="CHECK", help="measure these claims alone")
    parser.add_argument("--ladders", nargs="+", choices=NAMED, metavar="LADDER", help="these ladders alone")
    args = parser.parse_args()
    store, some = wt.Store(args.store), args.only or args.ladders
    for name in args.only or (() if args.table or some else ALL_CHECKS):
        check(name, store)
    found = json.loads(LADDER.read_text())
    for ladder in [NAMED[name] for name in args.ladders or ([] if some else NAMED)]:
        if ladder is moved and not adapted.PROSE.is_file():
            print(f"{ladder.name}: {adapted.PROSE} is not here; its rows stay as they were")
            continue
        found[ladder.name] = _on_the_ladder(ladder, store, args.devices, args.table)
    lines = checked()
    LADDER.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found, lines))
    print(f"{PAGE}: {sum(map(len, found.values()))} ideas on ladders, {len(lines)} single figures")
    for ladder in LADDERS.values():
        there = {row["idea"] for row in found.get(ladder.name, [])}
        if left := [idea.__name__ for idea in ladder.ideas if idea.__name__ not in there]:
            print(f"not trained on {ladder.name}: {left}")


if __name__ == "__main__":
    main()
