"""The text of `windtunnel fit`: caveats before numbers; a page a series for a few series, one line each for many."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence

from windtunnel.cli.table.answers import Answer, Whole
from windtunnel.cli.table.groups import Group
from windtunnel.cli.table.json import scores
from windtunnel.cli.table.verdicts import Judged
from windtunnel.forecasts import Fit
from windtunnel.forecasts.interval import digits
from windtunnel.ladder import compact

MANY = 20  # beyond this many series or targets, one line a forecast
FEW = 3
MOST_LINES = 200  # a table that nobody reads to its end: the rest is in --json (guess)


def as_text(whole: Whole, levels: Sequence[float]) -> list[str]:
    """The lines to print."""
    asked = _asked(whole)
    lines = _pages(whole, asked, levels) if max(len(whole.fits), len(asked)) <= MANY else _table(whole, asked, levels)
    return [*lines, *_verdicts(whole), *_scores(whole)]


def _asked(whole: Whole) -> list[list[Answer]]:
    """Answers of one group at one target together: they are one forecast, beside several truths."""
    found: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in whole.answers:
        found.setdefault((answer.group.series, answer.group.idea, answer.forecast.key), []).append(answer)
    return list(found.values())


def _pages(whole: Whole, asked: Sequence[Sequence[Answer]], levels: Sequence[float]) -> list[str]:
    lines: list[str] = []
    for group, fitted in whole.fits:
        lines += [f"== {group.name}"] if group.name else []
        lines += [f"caveat: {caveat}" for caveat in fitted.caveats]
        for answers in asked:
            lines += _answer(fitted, answers, levels) if answers[0].group is group else []
        lines += [*str(fitted).splitlines()[len(fitted.caveats) :], ""]
    return lines


def _answer(fitted: Fit, answers: Sequence[Answer], levels: Sequence[float]) -> list[str]:
    """The target's own caveats, the number, further levels, the scores; the fit's caveats are printed once above."""
    forecast = answers[0].forecast
    lines = [f"caveat: {caveat}" for caveat in forecast.caveats if caveat not in fitted.caveats]
    lines += [f"loss at {forecast.place}: {forecast.loss}"]
    lines += [f"    {interval}" for interval in forecast.intervals if interval.level in levels[1:]]
    best = answers[0].best
    lines += [f"    caveat: {caveat}" for caveat in best.caveats] if best else []
    lines += [f"    best {best}"] if best else []
    return lines + [f"    {answer.score}" for answer in answers if answer.score]


def _table(whole: Whole, asked: Sequence[Sequence[Answer]], levels: Sequence[float]) -> list[str]:
    """Caveats counted over series, then a line for each forecast, or for each fit where nothing is to be foretold."""
    counted = Counter(caveat for _, fitted in whole.fits for caveat in dict.fromkeys(fitted.caveats))
    of = f" of {len(whole.fits)} series" if len(whole.fits) > 1 else ""
    lines = [f"caveat ({count}{of}): {caveat}" for caveat, count in counted.most_common(8)]
    lines += [f"and {len(counted) - 8} more kinds of caveat (--json lists all)"] if len(counted) > 8 else []
    if asked:
        truth = ("truth", "error") if any(answer.score for answer in whole.answers) else ()
        interval = f"{100 * levels[0]:g}% interval"
        head = ("series", "target", "loss", interval, *truth, "law", "weight", "caveats", "")
        rows = [_row(answers, bool(truth)) for answers in asked]
    else:
        head = ("series", "runs", "law", "weight", "residual", "caveats", "")
        rows = [_fit_row(group, fitted) for group, fitted in whole.fits]
    shown = _aligned([head, *rows[:MOST_LINES]])
    more = [f"and {len(rows) - MOST_LINES} more lines (--json has all)"] if len(rows) > MOST_LINES else []
    return [*lines, "", *shown, *more, ""]


def _row(answers: Sequence[Answer], scored: bool) -> tuple[str, ...]:
    forecast = answers[0].forecast
    law, weight = max(forecast.laws.items(), key=lambda pair: pair[1])
    bounds = f"[{digits(forecast.loss.low)}, {digits(forecast.loss.high)}]"
    mark = "" if forecast.reliable else "UNRELIABLE"
    truth = _truth(forecast.loss.median, [answer.score.truth for answer in answers if answer.score]) if scored else ()
    law_cells = (law, f"{weight:.2f}", str(len(forecast.caveats)), mark)
    return (answers[0].group.name, forecast.place, digits(forecast.loss.median), bounds, *truth, *law_cells)


def _truth(foretold: float, truths: Sequence[float]) -> tuple[str, str]:
    """The mean truth of a target and the error of the forecast, or two empty cells."""
    if not truths:
        return "", ""
    mean = sum(truths) / len(truths)
    return digits(mean), f"{100 * (foretold / mean - 1):+.2f} %"


def _fit_row(group: Group, fitted: Fit) -> tuple[str, ...]:
    law, weight = max(zip(fitted.laws, fitted.weights, strict=True), key=lambda pair: pair[1])
    mark = "" if fitted.reliable else "UNRELIABLE"
    count = str(len(fitted.caveats))
    return (group.name, str(len(group.runs)), law.law.name, f"{weight:.2f}", f"{100 * law.spread:.2f} %", count, mark)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = min(widths[0], max(12, shutil.get_terminal_size((160, 24)).columns // 4))
    cut = [(_short(row[0], widths[0]), *row[1:]) for row in rows]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _verdicts(whole: Whole) -> list[str]:
    lines: list[str] = []
    for judged in whole.verdicts[:MOST_LINES]:
        lines += _verdict(judged, len(whole.verdicts) <= MANY)
    more = len(whole.verdicts) - MOST_LINES
    lines += [f"and {more} more verdicts (--json has all)"] if more > 0 else []
    lines += [str(declined) for declined in whole.declined[:FEW]]
    more = len(whole.declined) - FEW
    lines += [f"and {more} more comparisons that cannot be made (--json lists all)"] if more > 0 else []
    return [*lines, ""] if lines else []


def _verdict(judged: Judged, caveats: bool) -> list[str]:
    verdict, of = judged.verdict, f" ({judged.series})" if judged.series else ""
    place = ", ".join(f"{compact(value)} {name}" for name, value in verdict.target.items())
    lines = [f"caveat: {caveat}" for caveat in verdict.caveats] if caveats else []
    lines.append(f"verdict on {judged.idea}{of} at {place}: {verdict}; loss {_signed(judged)}")
    if judged.truth == judged.truth:
        right = "better" if judged.truth < 0 else "worse"
        lines.append(f"    truth: {judged.truth:+.4f} ({right})")
    return lines


def _signed(judged: Judged) -> str:
    delta = judged.verdict.delta
    return f"{delta.median:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}] at {100 * delta.level:g}%"


def _scores(whole: Whole) -> list[str]:
    found = scores(whole)
    lines = []
    if "n" in found:
        covered = ", ".join(f"{100 * float(level):g}%: {share:.2f}" for level, share in found["coverage"].items())
        error = f"mean error {100 * found['mean_absolute_relative_error']:.2f} %"
        lines.append(f"scored {found['n']} forecasts: {error}, share inside {covered}")
    if "regret" in found:
        lost = found["regret"]
        lines.append(
            f"scored {lost['n']} searches: the foretold hyperparameters cost {100 * lost['mean']:.3f} % of the loss, "
            f"at most {100 * lost['largest']:.3f} %"
        )
    if "verdicts" in found:
        own = found["verdicts"]
        lines.append(
            f"scored {own['n']} verdicts: mean error of the gap {own['mean_absolute_gap_error']:.4f}, "
            f"Brier score of P(better) {own['brier']:.3f}"
        )
    return lines
