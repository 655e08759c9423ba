"""Numbers as people read them: rounded to what their errors support."""

import math
from collections.abc import Mapping

__all__ = [
    "MINUS",
    "NONE",
    "flatten_fields",
    "format_number",
    "format_rhat",
    "format_seconds",
    "format_share",
    "format_with_error",
]

NONE = "\N{EN DASH}"
"""Stands where a number does not exist."""
MINUS = "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed count of significant digits; a dash when there is none.

    Parameters
    ----------
    value
        Any float; None and NaN give a dash.
    digits
        Significant digits.

    Examples
    --------
    >>> format_number(1234.5), format_number(0.012345)
    ('1,234', '0.0123')
    """
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else f"{MINUS}\N{INFINITY}"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 7 or size < -4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return f"{value:,.{max(digits - 1 - size, 0)}f}".replace("-", MINUS)


def format_with_error(value: float, error: float) -> str:
    """Return ``value ± error`` with two digits of the error; the value alone when the error is unknown.

    Parameters
    ----------
    value
        The estimate.
    error
        Its standard error, in the same unit.

    Examples
    --------
    >>> format_with_error(7.2483, 0.0123), format_with_error(1.5, float("nan"))
    ('7.248 ± 0.012', '1.50')
    """
    if math.isnan(value) or math.isinf(value) or math.isnan(error) or math.isinf(error) or error < 0:
        return format_number(value)
    if error == 0:
        return f"{format_number(value, 4)} ± 0"
    places = 1 - math.floor(math.log10(error))
    if round(error, places) >= 10.0 ** (2 - places):
        places -= 1
    if not -4 <= places <= 9:
        return f"{format_number(value, 4)} ± {format_number(error, 2)}"
    shown, shown_error = round(value, places) + 0.0, round(error, places)
    places = max(places, 0)
    return f"{shown:,.{places}f} ± {shown_error:,.{places}f}".replace("-", MINUS)


def format_rhat(value: float | None) -> str:
    """Return R-hat with three decimals, as is usual; a dash where it does not apply.

    Parameters
    ----------
    value
        One or more, or infinity.
    """
    if value is None or not math.isfinite(value):
        return format_number(value)
    return f"{value:.3f}" if value < 10 else format_number(value)


def format_share(share: float | None) -> str:
    """Return a share as a percentage.

    Parameters
    ----------
    share
        Between 0 and 1; None and NaN give a dash.
    """
    if share is None or math.isnan(share):
        return NONE
    percent = 100 * share
    if percent in {0.0, 100.0}:
        return f"{percent:.0f} %"
    return f"{format_number(percent, 2)} %" if percent < 99.5 else f"{percent:.1f} %"


def format_seconds(seconds: float) -> str:
    """Return a duration.

    Parameters
    ----------
    seconds
        Zero or more.

    Examples
    --------
    >>> format_seconds(0.42), format_seconds(75.2), format_seconds(3700)
    ('0.4 s', '1 min 15 s', '1 h 02 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def flatten_fields(fields: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return nested job fields as dotted names with short texts.

    Parameters
    ----------
    fields
        JSON-like values.
    prefix
        Put before every name.
    """
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update(flatten_fields(value, f"{prefix}{name}."))
        elif isinstance(value, bool) or value is None:
            flat[f"{prefix}{name}"] = {True: "yes", False: "no", None: NONE}[value]
        elif isinstance(value, int):
            flat[f"{prefix}{name}"] = f"{value:,}" if name.startswith("num_") else str(value)
        elif isinstance(value, float):
            flat[f"{prefix}{name}"] = f"{value:.6g}"
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{name}"] = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in value)
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat
