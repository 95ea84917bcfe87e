"""What a check says: Finding, with the place in the user's code and the remedy; Report, all findings of one idea."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from windtunnel.notebook import printed


class Mark(StrEnum):
    """How a check ended. Only `failed` counts against the idea; `skipped`: an earlier failure is in the way."""

    PASSED = "passed"
    FAILED = "failed"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Place:
    """A line of the user's code."""

    file: str
    line: int
    code: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Trouble = tuple[str, Place | None, str]  # what is wrong, where, what to write


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's answer. The suite fills in `check`."""

    mark: Mark
    found: str
    place: Place | None = None
    remedy: str = ""
    check: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"mark": str(self.mark)}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings about one idea, in the order of the suite."""

    idea: str
    claim: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that count against the idea."""
        return tuple(f for f in self.findings if f.mark is Mark.FAILED)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    _repr_pretty_ = printed

    def __str__(self) -> str:
        if self.passed:
            return f"{self.idea} passes all {len(self.findings)} checks ({self.seconds:.1f} s)"
        names = ", ".join(f.check for f in self.failed)
        return f"{self.idea} fails {len(self.failed)} of {len(self.findings)} checks: {names} ({self.seconds:.1f} s)"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "idea": self.idea,
            "claim": self.claim,
            "passed": self.passed,
            "seconds": round(self.seconds, 2),
            "checks": [f.to_json() for f in self.findings],
        }


def passed(found: str) -> Finding:
    """The check holds."""
    return Finding(mark=Mark.PASSED, found=found)


def noted(found: str) -> Finding:
    """Worth knowing, not a failure."""
    return Finding(mark=Mark.NOTED, found=found)


def failed(found: str, place: Place | None, remedy: str) -> Finding:
    """The check does not hold; `remedy` says what to write instead."""
    return Finding(mark=Mark.FAILED, found=found, place=place, remedy=remedy)
