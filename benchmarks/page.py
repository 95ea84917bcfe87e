"""The page docs/track-record.md, written from benchmarks/results/{forecasting,speed}.json and nothing else.

What misses its bar stands in the same table as what meets it. A newcomer would edit the page; run
`python -m benchmarks.forecasting` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "track-record.md"
# Best single form of each domain (`forecasting.md` of the task; 2209.06640, 2210.14891).
CURVES = {"IC": 0.041, "BB": 0.011, "NMT": 0.011, "LM": 0.0008}
# Published PredE and WorstE in %, both means over schedules (README of thu-yao-01-luo/MultiPowerLaw).
SCHEDULES = {"25M": (0.110, 0.409), "100M": (0.142, 0.583), "400M": (0.168, 0.995)}
OVERALL = {
    "all series": "all_series",
    "all but the 92 curves": "all_but_curves92",
    "all but ColPret, whose split is ours": "all_but_colpret",
}
WAYS = ("_left_out", "_mean_of_tables")

HEAD = """# Track record

How well windtunnel foretold real large runs from small ones that others published: one method and one set of constants
for every table. Written by `python -m benchmarks.forecasting`; do not edit. The tables are not part of the project.

- **error**: absolute relative error of the foretold median, mean over series of the mean over a series' hidden runs;
  *pooled*: over all hidden runs alike.
- **80 %, 95 %**: share of hidden runs inside that interval, mean over series. *Left out*: with the constants of
  width learned without the table and its kin; a dash where those in use never saw the table, so that both are the same.
- **width / oracle**: median half-width of the 95 % interval over the constant relative half-width that just holds 95 %
  of the row's hidden runs. *own*: median over series of the mean half-width over the series' largest error.
- **seconds**: of fitting and forecasting all series of the row, summed over processes.
"""


def page(found: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    """The whole page."""
    machine = found["machine"]
    measured = (
        f"Measured on {machine['date']}, {machine['processor']}, two processes, {found['seconds']:.0f} s in all.\n"
    )
    parts = [HEAD, measured, "## Loss at larger sizes\n", losses(found["tables"]), overall(found)]
    parts += ["## 92 learning curves, mean RMSLE by domain\n", curves(found["curves92_rmsle"])]
    parts += ["## Other questions\n", others(found)]
    parts += ["## Speed\n", speeds(speed)]
    if found["refused"]:
        parts += ["## Refused\n", "\n".join(f"- {name}: {why}" for name, why in found["refused"].items())]
    return "\n".join(parts).rstrip() + "\n"


def losses(rows: Sequence[Mapping[str, Any]]) -> str:
    """The main table."""
    head = ("table", "series", "hidden", "error %", "pooled", "best known", "bar", "", "80 %", "95 %", "left out",
            "width / oracle", "own", "seconds")  # fmt: skip
    return table(head, [row_of(row) for row in rows])


def row_of(row: Mapping[str, Any]) -> list[str]:
    """Cells of one line."""
    away = [f"{row[f'coverage_{level}_left_out']:.2f}" for level in (80, 95) if f"coverage_{level}_left_out" in row]
    return [
        row["label"], str(row["series"]), str(row["hidden"]), f"{row['error_percent']:.2f}",
        f"{row['error_pooled_percent']:.2f}", row["best_known"] or "-", row["bar"], verdict(row["met"]),
        f"{row['coverage_80']:.2f}", f"{row['coverage_95']:.2f}", ", ".join(away) or "-",
        f"{row['width_over_oracle']:.2f}", f"{row['width_over_own_largest_error']:.2f}", f"{row['seconds']:.1f}",
    ]  # fmt: skip


def overall(found: Mapping[str, Any]) -> str:
    """Coverage over all series, in words."""
    rows = []
    for name, key in OVERALL.items():
        a = found[key]
        held = [f"{a[f'coverage_80{how}']:.3f}, {a[f'coverage_95{how}']:.3f}" for how in ("", *WAYS)]
        widths = [f"{a['width_over_oracle']:.2f}", f"{a['width_over_own_largest_error']:.2f}"]
        rows.append([name, str(a["tables"]), str(a["series"]), *held, *widths])
    head = ("", "tables", "series", "80 %, 95 %", "left out", "mean of tables", "width / oracle of its table", "own")
    return f"\n{table(head, rows)}\n\nBars: 72 to 90 % and 90 to 99 %, width at most 2x the oracle's.\n"


def curves(rmsle: Mapping[str, float]) -> str:
    """Against the best single form of each domain."""
    rows = [[name, f"{rmsle[name]:.4g}", f"{best:g}", verdict(rmsle[name] <= best)] for name, best in CURVES.items()]
    return table(("domain", "RMSLE", "best single form", ""), rows) + "\n"


def others(found: Mapping[str, Any]) -> str:
    """One table for all questions that are not the loss at a larger size."""
    rows: list[list[str]] = []
    for model, (known, worst) in SCHEDULES.items():
        s = found["schedules"][model]
        error, held = f"{s['mean_of_schedules']:.3f} (pooled {s['pooled']:.3f})", f"95 %: {s['coverage_95']:.2f}"
        met = s["mean_of_schedules"] <= known
        rows.append([f"6 unseen schedules, {model}: PredE %", error, f"{known:.3f}", verdict(met), held])
        most, least = s["worst_mean_of_schedules"], s["published_law"]["minimum_mean_of_schedules"]
        error = f"{most:.3f} (of all rows {s['worst']:.2f})"
        rows.append(["the same, WorstE %", error, f"{worst:.3f}", verdict(most <= worst), "-"])
        rows.append(["the published law at its least misfit: PredE %", f"{least:.3f}", "-", "", "-"])
    for name, most in (("to 1.07B", 1.0), ("5 smallest cells to 4 largest", 1.2)):
        s = found["step_law"][name]
        regret, met = f"{s['mean_permille']:.2f} of {s['cells']} cells", s["mean_permille"] <= most
        said = f"said {s['said_permille']:.2f}; {s['within_said_95']:.2f} within 95 %"
        rows.append([f"Step Law, {name}: mean regret, permille", regret, f"{most:g}", verdict(met), said])
    i, t, m, a = (
        found["ideas"]["all"],
        found["tasks"]["mean"],
        found["mixtures"],
        found["fine_tuning_with_named_laws"],
    )
    gap = f"{i['error']:.4g} of {i['n']} gaps"
    held = f"90 %: {i['inside_90']:.2f}; with one pair's noise {i['pair_inside_90']:.2f}"
    rows.append(["marin, 3 ideas at 1.2B: error of the gap, nats", gap, "0.003", verdict(i["error"] <= 0.003), held])
    rows.append(["the same, Brier score of P(better)", f"{i['brier']:.4f}", "0.15", verdict(i["brier"] <= 0.15), "-"])
    plain = (
        (
            "OLMo ladder, accuracy of 4 tasks at 7B, 13B: error %",
            f"{t['error_percent']:.2f}",
            f"95 %: {t['coverage_95']:.2f}",
        ),
        (
            f"regmix, {m['fitted']} runs of 1M rank {m['ranked']} of 1B: Spearman",
            f"{m['pile_cc']:.3f} on Pile-CC",
            f"{m['mean']:.3f} mean of {m['domains']} domains",
        ),
        (
            "fine-tuning with the laws of adaptation named: error %",
            f"{a['error_percent']:.2f}",
            f"80 %: {a['coverage_80']:.2f}, 95 %: {a['coverage_95']:.2f}",
        ),
    )
    rows += [[question, result, "-", "", interval] for question, result, interval in plain]
    return table(("question", "result", "bar", "", "interval"), rows) + "\n"


def speeds(found: Mapping[str, Any]) -> str:
    """Seconds of a fit with its replicates, beside two other packages."""
    rows = []
    for name, row in found["rows"].items():
        if "seconds" in row:
            faster = found["times_faster"].get(name)
            times = "-" if faster is None else f"{faster:,.0f}"
            rows.append([name, f"{seconds(row['seconds'])}", times, scaled(row)])
    machine, bars = found["machine"], found["bars"]
    said = (
        f"{found['runs']} runs in parameters and tokens, {found['replicates']} replicates, one core, one process, "
        f"{machine['date']} (`benchmarks/speed.py`). Bars: {bars['seconds']:g} s, and {bars['times_faster']:g} times "
        f"faster than the other packages.\n\n"
    )
    return said + table(("fit", "seconds", "times ours (one law)", ""), rows) + "\n"


def seconds(value: float) -> str:
    """Three digits, or whole seconds."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def scaled(row: Mapping[str, Any]) -> str:
    """What the seconds were scaled from, if not all replicates were run."""
    if "measured_replicates" not in row:
        return ""
    starts = f", {row['measured_starts']} of 3,125 starts" if "measured_starts" in row else ""
    return f"scaled from {row['measured_replicates']} replicate(s){starts}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def verdict(met: bool | None) -> str:
    """Whether the bar is met; nothing where there is none."""
    return "" if met is None else "met" if met else "missed"
