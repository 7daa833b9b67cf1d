"""Numbers as people write them: 5.72 M, 78.3 %, 9.61 ms, 2.0 × 10⁻⁷. What is missing becomes an en dash.

A number and its unit are joined by a no-break space; minus is the real minus sign.
"""

import math
from typing import TypeGuard

MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def present(value: object) -> TypeGuard[float]:
    """Whether there is a finite number (JSON has neither NaN nor infinity: they come back as None)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def missing(value: object) -> bool:
    """Whether there is none."""
    return not present(value)


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with `digits` significant digits, as a power of ten where it is tiny or huge."""
    if not present(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -3 or exponent > 5:
        mantissa = value / 10.0**exponent
        text = f"{mantissa:.1f} × 10{str(exponent).translate(_SUPERSCRIPT)}"
    else:
        text = f"{value:.{max(digits - 1 - exponent, 0)}f}"
    return text.replace("-", "−")


def scaled(value: float | None, steps: tuple[tuple[float, str], ...]) -> str:
    """Three significant digits in the largest unit that fits; `steps` are (size, unit), largest first."""
    if not present(value):
        return MISSING
    size, unit = next((step for step in steps if abs(value) >= 0.9995 * step[0]), steps[-1])
    if isinstance(value, int) and size == 1:
        return _joined(f"{value}", unit)
    return _joined(number(value / size), unit)


def count(value: float | None) -> str:
    """Parameters or multiply-adds: 853 k, 5.72 M, 1.26 G."""
    return scaled(value, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def size(value: float | None) -> str:
    """Bytes: 22.9 MB."""
    return scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def milliseconds(value: float | None) -> str:
    """A number of milliseconds, in seconds where it is long."""
    return scaled(value, ((1e3, "s"), (1, "ms")))


def percent(value: float | None) -> str:
    """A number that is a percentage already."""
    if not present(value):
        return MISSING
    if 0 < abs(value) < 0.01:
        return _joined("< 0.01", "%")
    return _joined(f"{value:.{0 if value in (0, 100) else 1 if abs(value) >= 9.995 else 2}f}", "%")


def error(value: float | None) -> str:
    """A relative residual, as the percentage of the target that the operator does not explain."""
    if not present(value):
        return MISSING
    return percent(100 * value) if value < 10 else f"{number(value, 2)} ×"


def in_unit(value: float | None, unit: str) -> str:
    """A grade in its own unit."""
    if unit in ("%", "percent"):
        return percent(value)
    return number(value, 4) if missing(value) or not unit else _joined(number(value, 4), unit)


def change(before: float | None, after: float | None) -> str:
    """By how much it grew or shrank, in percent of what it was."""
    if not (present(before) and present(after)) or before == 0:
        return MISSING
    share = 100 * (after - before) / before
    return "unchanged" if abs(share) < 0.05 else _joined(f"{share:+.1f}", "%")


def difference(before: float | None, after: float | None, unit: str) -> str:
    """By how much a grade moved, in its own unit; percentages move by points."""
    if not (present(before) and present(after)):
        return MISSING
    move = after - before
    points = unit in ("%", "percent")
    if abs(move) < (0.005 if points else 1e-9):
        return "unchanged"
    text = f"{move:+.{1 if abs(move) >= 0.95 else 2}f}" if points else f"{'+' if move > 0 else ''}{number(move)}"
    return _joined(text, "points" if points else unit)


def source(name: str) -> str:
    """The name of a data set without the folders that lead to it."""
    kind, colon, rest = name.rpartition(":")
    return f"{kind}{colon}…/{rest.rstrip('/').rpartition('/')[2]}" if rest.count("/") > 1 else name


def _joined(text: str, unit: str) -> str:
    return f"{text}\u00a0{unit}".rstrip("\u00a0").replace("-", "−")
