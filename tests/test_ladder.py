"""Rungs, ladders and targets: the arithmetic, and what is refused with which words."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from windtunnel.errors import InputError
from windtunnel.ladder import Ladder, Rung, Size, Target, compact


def rung(**changes):
    return Rung(**({"width": 32, "depth": 2, "tokens": 1000, "heads": 4} | changes))


# sizes


def test_a_lookup_only_table_does_not_count_and_a_tied_one_does():
    untied = Size(embedding=10, non_embedding=100, flops_per_token=600.0)
    tied = Size(embedding=10, non_embedding=100, flops_per_token=600.0, tied=True)
    assert (untied.params, tied.params) == (100, 110)
    assert untied.total == tied.total == 110
    assert untied.training_flops(7) == 4200


def test_experts_that_a_token_does_not_meet_are_built_but_do_not_work():
    experts = Size(embedding=10, non_embedding=100, flops_per_token=360.0, idle=40)
    assert (experts.params, experts.total) == (60, 110)


# ladders


def test_a_geometric_ladder_is_even_in_the_logarithm_and_reaches_both_ends():
    ladder = Ladder.geometric(params=(1e6, 64e6), rungs=6, tokens_per_param=20, depth=4, head_width=8)
    params = [12 * r.depth * r.width**2 for r in ladder.rungs]
    steps = [math.log(b / a) for a, b in pairwise(params)]
    assert params[0] == pytest.approx(1e6, rel=0.1) and params[-1] == pytest.approx(64e6, rel=0.1)
    assert steps == pytest.approx([math.log(64) / 5] * 5, abs=0.12)  # whole heads only


@pytest.mark.parametrize("sizes", [{"params": (1e4, 1e6), "head_width": 16}, {"params": (1e6, 1e8)}])
def test_tokens_per_param_are_those_of_the_rounded_sizes(sizes):
    ladder = Ladder.geometric(rungs=5, tokens_per_param=20, **sizes)
    assert {r.tokens / (12 * r.depth * r.width**2) for r in ladder.rungs} == {20}


def test_several_horizons_may_stand_in_a_list():
    one, other = (Ladder.widths((16, 32), depth=1, tokens=horizons) for horizons in ((1000, 2000), [1000, 2000]))
    assert one == other and len(one.rungs) == 4


def test_a_geometric_ladder_keeps_its_head_width():
    ladder = Ladder.geometric(params=(1e6, 64e6), rungs=4, tokens=1e6)
    assert {r.width // r.heads for r in ladder.rungs} == {64}
    assert {r.tokens for r in ladder.rungs} == {1_000_000}


def test_a_ladder_of_widths_grows_in_width_alone():
    ladder = Ladder.widths((16, 32, 64), depth=2, tokens=1e5, seeds=2, batch=8)
    assert [r.width for r in ladder.rungs] == [16, 32, 64]
    assert [r.heads for r in ladder.rungs] == [1, 2, 4]
    assert {(r.depth, r.tokens, r.batch) for r in ladder.rungs} == {(2, 100_000, 8)}
    assert (ladder.base, ladder.top) == (ladder.rungs[0], ladder.rungs[-1])


def test_but_changes_one_thing_and_refuses_what_is_not_there():
    ladder = Ladder.widths((16, 32, 64), depth=2, tokens=1e5)
    assert ladder.but(seeds=7).rungs == ladder.rungs and ladder.but(seeds=7).seeds == 7
    assert rung().but(width=64).width == 64 and rung().but(width=64).depth == 2
    with pytest.raises(InputError, match="Ladder has no steps; it has rungs, seeds"):
        ladder.but(steps=3)
    with pytest.raises(InputError, match="Rung has no layers"):
        rung().but(layers=3)


def test_a_changed_rung_is_checked_again():
    with pytest.raises(InputError, match="cannot be split over 3 heads"):
        rung().but(heads=3)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Ladder(rungs=()), r"has 0 rung\(s\); a law with a floor needs at least 3"),
        (lambda: Ladder(rungs=(rung(), rung(width=64))), r"has 2 rung\(s\).*Add rungs"),
        (lambda: Ladder.widths((64, 32, 16), depth=2, tokens=1e5), "Rungs must grow: width 32 .* follows width 64"),
        (lambda: Ladder.widths((16, 16, 32), depth=2, tokens=1e5), "Rungs must grow"),
        (
            lambda: Ladder(rungs=tuple(rung(batch=b) for b in (4, 8, 16))),
            r"differ in batch alone \(4 and 8\); .* one size.*compare_parametrizations",
        ),
        (lambda: Ladder(rungs=(8, 12, 16)), "holds 8, which is no Rung; .*Ladder.widths"),  # pyright: ignore
        (lambda: Ladder.widths((16, 32, 64), depth=2, tokens=1e5, seeds=0), "Ladder seeds is 0"),
        (lambda: Ladder.widths((16, 32, 64), depth=2, tokens=1e5, seeds=1.5), "Ladder seeds is 1.5"),
        (lambda: Ladder(rungs=8), "holds 8, which is no Rung"),  # pyright: ignore
        (lambda: Ladder.widths(8, depth=2, tokens=1e5), "widths is given 8; it takes whole numbers in a tuple"),
        (lambda: Ladder.widths("8", depth=2, tokens=1e5), "widths is given '8'; it takes whole numbers"),
        (lambda: Ladder.widths((16, 32, 64), depth=2, tokens="1e5"), "tokens is '1e5'; give the tokens"),
        (lambda: Ladder.widths((16, 32, 64), depth=2, tokens=1e5, head_width=0), "head_width is 0"),
        (lambda: Ladder.geometric(params=(1e6, 1e7), rungs=2, tokens=1e6), "rungs is 2; at least 3"),
        (lambda: Ladder.geometric(params=(1e6, 1e7), rungs=3.5, tokens=1e6), "rungs is 3.5"),
        (
            lambda: Ladder.geometric(params=(1e4, 2e4), rungs=5, tokens=1e6),
            "whole heads of 64, so width 64 x depth 1 is followed by width 64 x depth 1.*smaller head_width",
        ),
        (lambda: Ladder.geometric(params=(1e7, 1e6), rungs=3, tokens=1e6), r"give \(smallest, largest\)"),
        (lambda: Ladder.geometric(params=(0, 1e6), rungs=3, tokens=1e6), r"give \(smallest, largest\)"),
        (lambda: Ladder.geometric(params=(1e6, 1e7), rungs=3), "exactly one of tokens_per_param and tokens"),
        (
            lambda: Ladder.geometric(params=(1e6, 1e7), rungs=3, tokens=1e6, tokens_per_param=20),
            "exactly one of tokens_per_param and tokens",
        ),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"width": 0}, "Rung width is 0; it must be a whole number"),
        ({"depth": -1}, "Rung depth is -1"),
        ({"tokens": 1e6}, "Rung tokens is 1000000.0"),
        ({"heads": 0}, "Rung heads is 0"),
        ({"heads": 5}, "width 32 cannot be split over 5 heads"),
        ({"batch": 0}, "Rung batch is 0"),
        ({"batch": 2.5}, "Rung batch is 2.5"),
    ],
)
def test_a_rung_that_cannot_be_built_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        rung(**changes)


# targets


@pytest.mark.parametrize("sizes", [{"params": 1e9}, {"tokens": 1e9}, {"flops": 1e20}, {"params": 1e9, "tokens": 2e10}])
def test_a_target_may_be_sizes_alone(sizes):
    assert Target(**sizes).rung is None
    assert all(name in str(Target(**sizes)) for name in sizes)


@pytest.mark.parametrize(
    "sizes, says",
    [
        ({}, "Target is empty"),
        ({"params": 0}, "Target params is 0"),
        ({"tokens": -1.0}, "Target tokens is -1.0"),
        ({"flops": float("nan")}, "Target flops is nan"),
        ({"flops": float("inf")}, "Target flops is inf"),
        ({"rung": rung(), "params": 1e9}, "not both"),
    ],
)
def test_a_target_that_says_nothing_or_too_much_is_refused(sizes, says):
    with pytest.raises(InputError, match=says):
        Target(**sizes)


# words


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1k"),
        (1_234_567, "1.23M"),
        (999_600, "1M"),
        (2.5e9, "2.5G"),
        (1.4e11, "140G"),
        (3e21, "3Z"),
        (-1500, "-1.5k"),
    ],
)
def test_counts_are_written_in_three_digits_and_a_letter(number, text):
    assert compact(number) == text


def test_a_rung_says_what_it_is():
    assert str(rung(tokens=20_000)) == "width 32 x depth 2, 20k tokens"
