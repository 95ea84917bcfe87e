"""Numbers as text: SI counts, losses, intervals, durations. A missing number is the word "missing", never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from windtunnel.ladder import compact, four_decimals

MISSING = "missing"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
MOST_TIMES = 1000.0  # as `forecasts.worth.MOST`: compute multipliers are searched within 1/1000x and 1000x
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def known(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any, digits: int = 3) -> str:
    """A number in a few significant digits: 0.0113, 4096, 1.2e-5 as '1.2·10⁻⁵'."""
    if not known(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent >= 6:
        return _power(value, exponent, digits)
    text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", MINUS)


def si(value: Any, unit: str = "") -> str:
    """A count in three digits with its SI letter, powers of ten where the letters end: 1.23M, 2·10²²."""
    if not known(value):
        return MISSING
    large = abs(value) >= 0.9995e21
    text = _power(value, math.floor(math.log10(abs(value))), 3) if large else _small(value)
    return f"{text}\N{NO-BREAK SPACE}{unit}" if unit else text


def loss(value: Any) -> str:
    """A loss, in four decimals where that is what says most."""
    return four_decimals(value).replace("-", MINUS) if known(value) else MISSING


def signed(value: Any, decimals: int = 4) -> str:
    """A difference with its sign."""
    return f"{value:+.{decimals}f}".replace("-", MINUS) if known(value) else MISSING


def percent(value: Any) -> str:
    """A share as a percentage: 0.031 as '3.1 %'."""
    if not known(value):
        return MISSING
    shown = 100 * value
    text = f"{shown:.0f}" if abs(shown) >= 10 or shown == round(shown) else f"{shown:.2g}"
    return f"{text}\N{NO-BREAK SPACE}%".replace("-", MINUS)


def interval(value: Mapping[str, Any] | None, sign: bool = False) -> str:
    """'2.731 [2.702, 2.764] at 90 %', in as many digits as its width supports; the level is left out if unknown."""
    if not value or not all(known(value.get(name)) for name in ("median", "low", "high")):
        return MISSING
    decimals = decimals_for(value["high"] - value["low"], value["median"])
    return _stated(value, lambda number: _fixed(number, decimals, "+" if sign else ""))


def optimum(value: Mapping[str, Any] | None) -> str:
    """'0.0451 [0.00985, 0.223] at 90 %', of what is searched on a log scale: three digits of each end."""
    return _stated(value, plain)


def multiple(value: Mapping[str, Any] | None) -> str:
    """'1.24x [1.07, 1.41] at 90 %' with a proper times sign. At MOST_TIMES nothing is known but that it is beyond."""
    return _stated(value, _times, TIMES)


def _stated(value: Mapping[str, Any] | None, shown: Callable[[float], str], unit: str = "") -> str:
    """Median, bounds and level, each number as `shown` writes it."""
    if not value or not all(known(value.get(name)) for name in ("median", "low", "high")):
        return MISSING
    median, low, high = (shown(value[name]) for name in ("median", "low", "high"))
    level = value.get("level")
    return f"{median}{unit} [{low}, {high}]" + (f" at {percent(level)}" if known(level) else "")


def decimals_for(width: float, median: float) -> int:
    """Decimals that show two digits of an interval's width (of the median where the width is 0)."""
    size = abs(width) or abs(median) or 1.0
    return min(10, max(0, 1 - math.floor(math.log10(size))))


def duration(seconds: Any) -> str:
    """'45 s', '12 min', '3 h 20 min', '4 d 3 h'."""
    if not known(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def pairs(numbers: Mapping[str, Any] | None) -> str:
    """'lr 0.0113, decay 0.1'."""
    return ", ".join(f"{name} {plain(value)}" for name, value in (numbers or {}).items())


def tied(text: str) -> str:
    """The text with its numbers tied to a following per cent sign, so that no line breaks between them."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def plural(count: int, noun: str) -> str:
    """'1 run', '3 runs', 'no runs'."""
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _times(value: float) -> str:
    if value > 0.99 * MOST_TIMES:
        return f">{MOST_TIMES:g}"
    if value < 1.01 / MOST_TIMES:
        return f"<{1 / MOST_TIMES:g}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _fixed(value: float, decimals: int, shape: str) -> str:
    text = f"{value:{shape}.{decimals}f}" if abs(value) < 1e7 else f"{value:{shape}.4g}"
    return text.replace("-", MINUS)


def _small(value: float) -> str:
    return compact(value).replace("-", MINUS) if value == 0 or abs(value) >= 1 else plain(value)


def _power(value: float, exponent: int, digits: int) -> str:
    mantissa = f"{value / 10.0**exponent:.{digits}g}".replace("-", MINUS)
    power = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    return power if mantissa == "1" else f"{mantissa}·{power}"
