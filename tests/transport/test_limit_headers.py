"""What answers that succeeded, or were refused, say about the limit: x-ratelimit headers in all their spellings."""

from __future__ import annotations

import pytest

from batchflux.transport.headers import LONGEST, lowered, pause_hinted, wait_asked

NOW = 1_795_500_000.0  # Tue, 24 Nov 2026 06:00:00 GMT
LATER = "Tue, 24 Nov 2026 06:00:30 GMT"
USED_UP = {"x-ratelimit-remaining-requests": "0"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-reset-requests": "9s"}, None),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "9s"}, None),
        (USED_UP, None),
        (USED_UP | {"x-ratelimit-reset-requests": "soon"}, None),
        (USED_UP | {"x-ratelimit-reset-requests": "9s"}, 9.0),
        ({"x-ratelimit-remaining": " 0 ", "x-ratelimit-reset": "9"}, 9.0),
        (USED_UP | {"x-ratelimit-reset-requests": "9s", "x-ratelimit-reset-tokens": "1s"}, 9.0),
        (
            USED_UP
            | {"x-ratelimit-remaining-tokens": "0"}
            | {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "9s"},
            9.0,
        ),
        (USED_UP | {"x-ratelimit-reset-requests": "-4"}, 0.0),
        (USED_UP | {"x-ratelimit-reset-requests": "2h"}, LONGEST),
        (USED_UP | {"x-ratelimit-reset-requests": LATER}, 30.0),
        (USED_UP | {"x-ratelimit-reset-requests": LATER, "date": "Tue, 24 Nov 2026 06:00:20 GMT"}, 10.0),
        (USED_UP | {"x-ratelimit-reset-requests": str(NOW + 12)}, 12.0),
        (USED_UP | {"x-ratelimit-reset-requests": f"{(NOW + 12) * 1000:.0f}"}, 12.0),
    ],
)
def test_the_pause_that_a_picture_hints_at(headers: dict[str, str], seconds: float | None) -> None:
    assert pause_hinted(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("1m30s", 90.0),
        ("6m0s", 360.0),
        ("12.5", 12.5),
        ("1.5s", 1.5),
        ("1.2.3s", None),
        ("5 minutes", None),
        ("1d", LONGEST),
        ("500us", 0.0005),
        ("500µs", 0.0005),
        ("999999999", LONGEST),
        ("1000000000", 0.0),
        ("1000000000000", 0.0),
    ],
)
def test_spellings_of_a_span(text: str, seconds: float | None) -> None:
    assert wait_asked(429, {"x-ratelimit-reset": text}, NOW) == (None if seconds is None else pytest.approx(seconds))
    assert wait_asked(503, {"x-ratelimit-reset": text}, NOW) is None, "without a 429 it is no request to wait"


@pytest.mark.parametrize(
    "text",
    ["Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Tue, 24 Nov 99999999999 06:00:00 GMT", ","],
)
def test_a_date_that_no_calendar_has_is_no_wish(text: str) -> None:
    assert wait_asked(429, {"retry-after": text}, NOW) in {None, 0.0, LONGEST}


def test_a_date_without_a_zone_is_greenwichs() -> None:
    assert wait_asked(503, {"retry-after": "Tue, 24 Nov 2026 06:00:30"}, NOW) == 30.0
    assert wait_asked(503, {"retry-after": "Tue, 24 Nov 2026 06:00:30 -0000"}, NOW) == 30.0


def test_of_a_repeated_header_the_first_counts() -> None:
    from multidict import CIMultiDict  # noqa: PLC0415  beside its one use

    assert lowered(CIMultiDict([("Retry-After", "1"), ("retry-after", "2")])) == {"retry-after": "1"}
