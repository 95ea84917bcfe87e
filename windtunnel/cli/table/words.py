"""The text of `windtunnel fit`: caveats before numbers; a page a series for a few series, one line each for many."""

from __future__ import annotations

import shutil
import statistics
from collections import Counter
from collections.abc import Sequence

from windtunnel.cli.table.answers import MANY, Answer, Whole
from windtunnel.cli.table.groups import Group
from windtunnel.cli.table.json import scores
from windtunnel.cli.table.verdicts import Judged
from windtunnel.forecasts import Fit
from windtunnel.forecasts.interval import digits
from windtunnel.ladder import four_decimals, in_words
from windtunnel.notebook import marked

FEW = 3
KINDS = 8  # of caveats that are printed where they are counted
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
        lines += marked(fitted.caveats)
        for answers in asked:
            lines += _answer(fitted, answers, levels) if answers[0].group is group else []
        lines += str(fitted).splitlines()[len(fitted.caveats) :]
        lines += [line for each in whole.spendings if each.group is group for line in each.lines()]
        lines += [""]
    return lines


def _answer(fitted: Fit, answers: Sequence[Answer], levels: Sequence[float]) -> list[str]:
    """The target's own caveats, the number, further levels, the scores; the fit's caveats are printed once above."""
    forecast = answers[0].forecast
    lines = marked(caveat for caveat in forecast.doubts if caveat not in fitted.caveats)
    lines += [f"loss at {forecast.place}: {forecast.loss}"]
    lines += [f"    {interval}" for interval in forecast.intervals if interval.level in levels[1:]]
    best = answers[0].best
    lines += [f"    caveat: {caveat}" for caveat in best.caveats] if best else []
    lines += [f"    best {best.summary}"] if best else []
    return lines + [f"    {answer.score}{_of_search(answer)}" for answer in answers if answer.score]


def _of_search(answer: Answer) -> str:
    return f" (the best of {answer.best_of} runs)" if answer.best_of > 1 else ""


def _table(whole: Whole, asked: Sequence[Sequence[Answer]], levels: Sequence[float]) -> list[str]:
    """Caveats counted over series, then a line for each forecast, or for each fit where nothing is to be foretold."""
    lines = _counted([fitted.caveats for _, fitted in whole.fits], "series")
    if asked:
        truth = ("truth", "error") if any(answer.score for answer in whole.answers) else ()
        interval = f"{100 * levels[0]:g}% interval"
        head = ("series", "target", "loss", interval, *truth, "law", "weight", "caveats", "")
        rows = [_row(answers, bool(truth)) for answers in asked]
    else:
        head = ("series", "runs", "law", "weight", "residual", "caveats", "")
        rows = [_fit_row(group, fitted) for group, fitted in whole.fits]
    shown = _aligned(_named([head, *rows[:MOST_LINES]]))
    more = [f"and {len(rows) - MOST_LINES} more lines (--json has all)"] if len(rows) > MOST_LINES else []
    more += ["--json has further levels, the best lr and batch, and every caveat"] if _holds_back(whole, levels) else []
    plans = [line for each in whole.spendings for line in each.lines()]
    return [*lines, "", *shown, *more, *_backtests(whole), *plans, ""]


def _holds_back(whole: Whole, levels: Sequence[float]) -> bool:
    """Whether a table of one line a forecast leaves out what was asked for or found."""
    return bool(whole.answers) and (len(levels) > 1 or any(answer.best for answer in whole.answers))


def _counted(caveats: Sequence[Sequence[str]], of: str) -> list[str]:
    """Each caveat once, with how many have it, the commonest first."""
    counted = Counter(caveat for each in caveats for caveat in dict.fromkeys(each))
    share = f" of {len(caveats)} {of}" if len(caveats) > 1 else ""
    lines = [f"caveat{f' ({count}{share})' if share else ''}: {text}" for text, count in counted.most_common(KINDS)]
    return lines + (
        [f"and {len(counted) - KINDS} more kinds of caveat (--json lists all)"] if len(counted) > KINDS else []
    )


def _named(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Without the column of names where there are none."""
    return rows if any(row[0] for row in rows[1:]) else [row[1:] for row in rows]


def _backtests(whole: Whole) -> list[str]:
    """How good the backtests of all series were, in one line."""
    hidden = [each for _, fitted in whole.fits for each in fitted.backtest.hidden]
    tested = [fitted for _, fitted in whole.fits if fitted.backtest.hidden]
    if not hidden:
        return ["no backtest: too few rungs or runs to hide one"]
    failed = sum(fitted.backtest.failed for fitted in tested)
    held = f"{sum(each.held for each in hidden)} of {len(hidden)} forecasts of hidden rungs inside"
    share = f" in {len(tested)} of {len(whole.fits)} series, {failed} FAILED" if len(whole.fits) > 1 else ""
    typical = 100 * statistics.median(abs(each.error) for each in hidden)
    level = 100 * hidden[0].predicted.level
    return [f"backtest{'s' if share else ''}: {held} their {level:g}% interval{share}; median error {typical:.2f} %"]


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
    if rows[0][0] == "series":  # names may be long; sizes are never cut
        widths[0] = min(widths[0], max(12, shutil.get_terminal_size((160, 24)).columns // 4))
    cut = [(_short(row[0], widths[0]), *row[1:]) for row in rows]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _verdicts(whole: Whole) -> list[str]:
    lines = _counted([judged.verdict.caveats for judged in whole.verdicts], "verdicts")
    for judged in whole.verdicts[:MOST_LINES]:
        lines += _verdict(judged)
    more = len(whole.verdicts) - MOST_LINES
    lines += [f"and {more} more verdicts (--json has all)"] if more > 0 else []
    lines += [str(declined) for declined in whole.declined[:FEW]]
    more = len(whole.declined) - FEW
    lines += [f"and {more} more comparisons that cannot be made (--json lists all)"] if more > 0 else []
    return [*lines, ""] if lines else []


def _verdict(judged: Judged) -> list[str]:
    verdict, of = judged.verdict, f" ({judged.series})" if judged.series else ""
    place = in_words(verdict.target)
    lines = [f"verdict on {judged.idea}{of} at {place}: {verdict.summary}; loss {verdict.delta.signed()}"]
    if judged.truth == judged.truth:
        right = "better" if judged.truth < 0 else "worse"
        lines.append(f"    truth: {four_decimals(judged.truth, '+')} ({right}){_of_one_pair(judged)}")
    return lines


def _of_one_pair(judged: Judged) -> str:
    """A truth is two runs' difference, noise and all: held against the interval that is meant for one."""
    said = judged.verdict.one_pair
    if said is None:
        return ""
    inside = "inside" if said.holds(judged.truth) else "OUTSIDE"
    bounds = f"[{four_decimals(said.low, '+')}, {four_decimals(said.high, '+')}]"
    return f", {inside} {bounds}, where one pair of runs is expected at {100 * said.level:g}%"


def _scores(whole: Whole) -> list[str]:
    found = scores(whole)
    lines = []
    if "n" in found:
        covered = ", ".join(f"{100 * float(level):g}%: {share:.2f}" for level, share in found["coverage"].items())
        error = f"mean error {100 * found['mean_absolute_relative_error']:.2f} %"
        lines.append(f"scored {found['n']} forecasts: {error}, share inside {covered}")
    if "regret" in found:
        lines.append(
            f"scored {found['searches']} searches: the foretold hyperparameters cost {100 * found['regret']:.3f} % of "
            f"the loss, at most {100 * found['largest_regret']:.3f} %"
        )
    if "verdicts" in found:
        own = found["verdicts"]
        lines.append(
            f"scored {own['n']} verdicts: mean error of the gap {digits(own['mean_absolute_gap_error'])}, "
            f"Brier score of P(better) {own['brier']:.3f}"
        )
    return lines
