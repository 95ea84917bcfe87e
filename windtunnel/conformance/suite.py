"""The suite: every check in order, and what must hold before it can be asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from windtunnel.conformance.contract import contract
from windtunnel.conformance.cost import costs
from windtunnel.conformance.finding import Finding, Mark, Report, failed
from windtunnel.conformance.packing import equals_alone, finite, packs, trains
from windtunnel.conformance.places import place_of_error
from windtunnel.conformance.reading import loads, self_contained, tunes
from windtunnel.conformance.remedies import MEND, OTHER_DATA, explain
from windtunnel.conformance.repeating import elsewhere, judge_untouched, repeatable, saves
from windtunnel.conformance.subject import Subject, on_its_bench
from windtunnel.conformance.training import causal, learns, width_stable


@dataclass(frozen=True)
class Check:
    """A question to an idea. `needs` names the checks that must not have failed before it makes sense."""

    name: str
    ask: Callable[[Subject], Finding]
    needs: tuple[str, ...] = ()


NOWHERE = (
    "No line of your code is in the traceback. If the message does not help, it is a bug of windtunnel: report it."
)

SUITE = (
    Check("loads", loads),
    Check("self-contained", self_contained, ("loads",)),
    Check("tuned fields", tunes, ("self-contained",)),
    Check("contract", contract, ("tuned fields",)),
    Check("trains", trains, ("contract",)),
    Check("packs", packs, ("trains",)),
    Check("repeatable", repeatable, ("trains",)),
    Check("pack equals alone", equals_alone, ("packs", "repeatable")),
    Check("finite", finite, ("repeatable",)),
    Check("learns", learns, ("finite",)),
    Check("causal", causal, ("finite",)),
    Check("width-stable", width_stable, ("learns",)),
    Check("saves", saves, ("repeatable",)),
    Check("costs", costs, ("trains",)),
    Check("judge untouched", judge_untouched, ("trains",)),
    Check("elsewhere", elsewhere, ("trains",)),
)


def findings(subject: Subject, suite: Sequence[Check] = SUITE) -> Iterator[Finding]:
    """Ask one check after the other; an error in the idea's code is that check's failure."""
    missing: set[str] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as a study trains on a CPU
    try:
        for check in suite:
            finding = _asked(check, subject, missing)
            if finding.mark in (Mark.FAILED, Mark.SKIPPED):
                missing.add(check.name)
            yield finding
    finally:
        torch.set_num_threads(before)


def report(subject: Subject, suite: Sequence[Check] = SUITE, tell: Callable[[Finding], None] | None = None) -> Report:
    """All findings about one idea; `tell` hears of each as it is made."""
    begin, made = time.perf_counter(), []
    subject = on_its_bench(subject)
    for finding in findings(subject, suite):
        made.append(finding)
        if tell is not None:
            tell(finding)
    seconds = time.perf_counter() - begin
    return Report(idea=subject.name, claim=subject.claim, findings=tuple(made), seconds=seconds)


def _asked(check: Check, subject: Subject, missing: set[str]) -> Finding:
    lacking = [name for name in check.needs if name in missing]
    if lacking:
        return Finding(mark=Mark.SKIPPED, found=f"asked once {lacking[0]!r} holds", check=check.name)
    try:
        return replace(check.ask(subject), check=check.name)
    except Exception as error:  # whatever an idea's code raises is a finding about the idea
        what, remedy = explain(error)
        remedy = OTHER_DATA if remedy == MEND and subject.of_its_own_kind else remedy
        where = place_of_error(error, subject.file)
        return replace(failed(what, where, remedy if where else NOWHERE), check=check.name)
