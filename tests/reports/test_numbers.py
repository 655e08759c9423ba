import math

import pytest

from tracestore.reports.numbers import (
    flatten_fields,
    format_number,
    format_seconds,
    format_share,
    format_with_error,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1.00"), (-2.345, "\u22122.35"), (12345.6, "12,346"), (0.00012345, "0.000123"),
        (1.5e-7, "1.50e\u22127"), (math.nan, "\u2013"), (None, "\u2013"), (-math.inf, "\u2212\u221e"),
        (3.2e9, "3.20e9"),
    ],
)  # fmt: skip
def test_numbers_are_rounded(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (1.23456, 0.0999, "1.23 ± 0.10"),
        (1234.56, 123.4, "1,230 ± 120"),
        (-0.00001, 0.01, "0.000 ± 0.010"),
        (-5.5, 0.25, "\u22125.50 ± 0.25"),
        (2.0, 0.0, "2.000 ± 0"),
        (2.0, math.nan, "2.00"),
        (math.nan, 1.0, "\u2013"),
        (1e12, 1e9, "1.000e12 ± 1.0e9"),
        (1.0, 1e-12, "1.000 ± 1.0e\u221212"),
    ],
)
def test_values_are_rounded_to_what_the_error_supports(value, error, text):
    assert format_with_error(value, error) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.0123, "1.2 %"), (0.999, "99.9 %"), (0.46, "46 %"), (None, "\u2013")],
)
def test_shares_are_percentages(share, text):
    assert format_share(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.8, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_nested_fields_get_dotted_names():
    fields = {"num_draws": 20000, "config": {"scale": 0.1, "moves": ["a", "b"], "deep": {"x": None}}, "flag": True}
    assert flatten_fields(fields) == {
        "num_draws": "20,000", "config.scale": "0.1", "config.moves": "a, b", "config.deep.x": "\u2013", "flag": "yes",
    }  # fmt: skip
