"""What each way is billed in `answer.py`: FLOPs and core seconds of tuning, of the check, of the ladder.

A newcomer would bill a search up to the run that found the best value; nobody can know that it has. So two ends are
billed: when its best is good and stays so (in its favour), and after as many runs as our tuning has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.answer_replay import summary
from benchmarks.answer_runs import HORIZONS, RANGE, WIDTHS, packed
from windtunnel.train.rows import apart_tokens
from windtunnel.tune import Tuning

ENDS = ("good", "equal")  # of a search; see `ended`
Work = dict[int, float]  # width to FLOPs
Speed = dict[int, dict[str, float]]  # width to FLOPs a core second, by way of training
Speeds = dict[str, Speed]  # by precision


def ladder_flops(rate: float, horizons: Sequence[int], seeds: int) -> tuple[Work, Work]:
    """FLOPs at every width of a design's runs, with one trunk a width and seed, and trained apart."""
    packs = {width: packed([(width, t, rate, 0) for t in horizons], 1) for width in WIDTHS}
    apart = {w: seeds * pack.size().training_flops(apart_tokens(pack)) for w, pack in packs.items()}
    return {w: seeds * pack.training_flops() for w, pack in packs.items()}, apart


def recheck_flops(seeds: int, widths: Sequence[int] = WIDTHS) -> Work:
    """FLOPs of the transfer check: a value on either side at the middle of the wider rungs, with at most two seeds."""
    width = widths[1:][(len(widths) - 2) // 2]
    one = packed([(width, HORIZONS[0], RANGE.low, 0)], 1)
    return {width: 2 * Tuning().recheck * min(seeds, Tuning().seeds) * one.training_flops()}


def tuning_bill(tuning: dict[str, Any], speeds: Speeds) -> dict[str, Any]:
    """(i) in short: the usual way's FLOPs and core seconds over ours, which stops by itself, and who was good.

    `checked` adds to ours the check at a larger width that the value transfers, as a study does by itself; its middle
    value is a run of the ladder.
    """
    usual, mine = tuning["usual"], tuning["ours_flops"]
    check = recheck_flops(Tuning().seeds)
    checked, work = mine + sum(check.values()), [({WIDTHS[0]: mine}, "tuning pack")]

    def times(widths: Sequence[int], end: str, mine: float = mine) -> dict[str, float]:
        return summary([sum(ended(each[w], end) for w in widths) / mine for each in usual])

    def seconds(end: str, work: Sequence[tuple[Work, str]]) -> dict[str, dict[str, float]]:
        every = [[({w: ended(each[w], end) for w in WIDTHS}, "plain")] for each in usual]
        return times_seconds(every, work, speeds)

    return {
        "value": tuning["value"], "regret_percent": {w: 100 * r for w, r in tuning["regret"].items()},
        "ours_flops": mine, "ours_good_after_flops": tuning["ours_reached_flops"],
        "times_all_widths": {end: times(WIDTHS, end) for end in ENDS},
        "times_all_widths_checked": {end: times(WIDTHS, end, checked) for end in ENDS},
        "times_core_seconds": {end: seconds(end, work) for end in ENDS},
        "times_core_seconds_checked": {end: seconds(end, [*work, (check, "tuning pack")]) for end in ENDS},
        "times_base_alone": {end: times(WIDTHS[:1], end) for end in ENDS},
        "usual_never_good": {w: sum(s[w]["reached"] is None for s in usual) for w in WIDTHS}, "searches": len(usual),
        "usual_regret_percent_equal_runs": {w: summary([100 * s[w]["equal_regret"] for s in usual]) for w in WIDTHS},
    }  # fmt: skip


def ended(search: dict[str, Any], end: str) -> float:
    """FLOPs of one search: `good` is once its best is good and stays so, which nobody can know (never: all it spent);
    `equal` is after as many runs as our tuning has."""
    return search["equal"] if end == "equal" else search["reached"] or search["all"]


def bills(
    tuning: dict[str, Any], design: dict[str, Any], speeds: Speeds, widths: Sequence[int] = WIDTHS
) -> dict[str, Any]:
    """(ii) for one study and design: how many times our FLOPs and core seconds the usual way takes at `widths`.

    The first horizon's run at the best value is the search's own and is not paid twice.
    """
    mine = [({WIDTHS[0]: tuning["ours_flops"]}, "tuning pack"), (design["recheck"], "tuning pack")]
    mine.append((design["trunk"], "trunk pack"))
    spent = {precision: seconds_of(mine, speed) for precision, speed in speeds.items()}
    result: dict[str, Any] = {"ours_flops": flops_of(mine), "ours_core_seconds": spent}
    saved, apart = {w: -tuning["one_run"][w] for w in widths}, {w: design["apart"][w] for w in widths}
    for end in ENDS:
        every = [[({w: ended(each[w], end) for w in widths}, "plain")] for each in tuning["usual"]]
        every = [[*search, (apart, "plain"), (saved, "plain")] for search in every]
        result[end] = {
            "times_flops": summary([flops_of(work) / result["ours_flops"] for work in every]),
            "times_core_seconds": times_seconds(every, mine, speeds),
        }
    return result | {"times_flops_of_the_ladder_alone": sum(design["apart"].values()) / sum(design["trunk"].values())}


def flops_of(work: Sequence[tuple[Work, str]]) -> float:
    """All FLOPs."""
    return sum(sum(part.values()) for part, _ in work)


def times_seconds(
    theirs: Sequence[Sequence[tuple[Work, str]]], mine: Sequence[tuple[Work, str]], speeds: Speeds
) -> dict[str, dict[str, float]]:
    """How many times our core seconds each of theirs is, in short, by the precision that packs are computed in."""
    return {
        precision: summary([seconds_of(work, speed) / seconds_of(mine, speed) for work in theirs])
        for precision, speed in speeds.items()
    }


def seconds_of(work: Sequence[tuple[Work, str]], speed: Speed) -> float:
    """Core seconds, derived: FLOPs over the rate measured at that width in that way of training."""
    return sum(flops / speed[width][way] for part, way in work for width, flops in part.items())
