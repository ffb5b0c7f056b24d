"""How long a server asks us to wait, in all the ways that servers say it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.transport.headers import wait_asked

NOW = 1_795_500_000.0  # Tue, 24 Nov 2026 06:00:00 GMT
DATE = "Tue, 24 Nov 2026 06:00:00 GMT"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("2.", 2.0),
        ("-3", 0.0),
        ("3600", 3600.0),
        ("86400", 3600.0),
        ("999999999999999", 3600.0),
        ("Tue, 24 Nov 2026 06:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 05:59:00 GMT", 0.0),
        ("Tuesday, 24-Nov-26 06:00:30 GMT", 30.0),
        ("Tue Nov 24 06:00:30 2026", 30.0),
        ("Tue, 24 Nov 2026 07:00:30 +0100", 30.0),
        ("2026-11-24T06:00:30Z", 30.0),
        ("2026-11-24T07:00:30.5+01:00", 30.5),
        ("1795500030", 30.0),
        ("1795500030000", 30.0),
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("30 seconds", 30.0),
        ("2 Minutes", 120.0),
        ('"30"', 30.0),
        ("30, 60", 30.0),
        ("Wed, 24 Nov 2027 06:00:00 GMT", 3600.0),
        ("", None),
        ("soon", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("0x10", None),
        ("٣", None),
        ("9" * 400, None),
        ("Tue, 99 Nov 2026 06:00:30 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert wait_asked(503, {"retry-after": text, "date": DATE}, NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1500", "retry-after": "soon"}, 1.5),
        ({"retry-after-ms": "soon"}, None),
    ],
)
def test_a_wait_in_milliseconds_counts_where_none_in_seconds_does(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert wait_asked(429, headers, NOW) == seconds


def test_a_date_without_the_answers_own_date_counts_from_now() -> None:
    now = wait_asked(503, {"retry-after": DATE}, 1_795_500_000.0 - 10)
    later = wait_asked(503, {"retry-after": DATE}, 1_795_500_000.0)
    assert now is not None
    assert later is not None
    assert (now - later, wait_asked(503, {"retry-after": DATE, "date": "nonsense"}, NOW)) == (10, later)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-requests": "250ms"}, 0.25),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3600.0),
        ({"x-ratelimit-reset-requests": "59m59.5s"}, 3599.5),
        ({"x-ratelimit-reset": "30"}, 30.0),
        ({"x-ratelimit-reset": str(int(NOW) + 45)}, 45.0),
        ({"x-ratelimit-reset": str((int(NOW) + 45) * 1000)}, 45.0),
        ({"x-ratelimit-reset": str(int(NOW) - 45)}, 0.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1.0),
        (
            {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "9s", "x-ratelimit-remaining-tokens": "0"},
            9.0,
        ),
        ({"x-ratelimit-reset-requests": "1.2.3s"}, None),
        ({"x-ratelimit-reset-requests": "s"}, None),
        ({"x-ratelimit-reset-requests": ""}, None),
        ({"retry-after": "5", "x-ratelimit-reset-requests": "1s"}, 5.0),
        ({"retry-after": "soon", "x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"ratelimit-limit": "10", "ratelimit-remaining": "0", "ratelimit-reset": "7"}, 7.0),
        ({"x-rate-limit-reset": str(int(NOW) + 45)}, 45.0),
        ({"ratelimit": "limit=10, remaining=0, reset=7"}, 7.0),
        ({"ratelimit": '"burst";r=5;t=1, "day";r=0;t=70', "ratelimit-policy": '"burst";q=5;w=1'}, 70.0),
        ({}, None),
    ],
)
def test_rate_limit_headers_of_a_429(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_asked(429, headers, NOW) == seconds


def test_rate_limit_headers_of_other_answers_say_nothing() -> None:
    assert wait_asked(200, {"x-ratelimit-reset-requests": "1s"}, NOW) is None
    assert wait_asked(503, {"x-ratelimit-reset-requests": "1s"}, NOW) is None


@settings(max_examples=40)
@given(st.text(), st.text(), st.sampled_from([429, 503]))
def test_no_text_breaks_it(text: str, date: str, status: int) -> None:
    for name in ("retry-after", "x-ratelimit-reset-requests"):
        wait = wait_asked(status, {name: text, "date": date}, NOW)
        assert wait is None or 0 <= wait <= 3600


@settings(max_examples=40)
@given(
    st.from_regex(
        r"[A-Z][a-z]{2}, -?\d{1,6} (Nov|Xxx) -?\d{1,6} \d{1,3}:\d{1,3}(:\d{1,3})? (GMT|[+-]\d{1,8})", fullmatch=True
    )
)
def test_no_date_breaks_it(text: str) -> None:
    wait = wait_asked(503, {"retry-after": text, "date": text}, NOW)
    assert wait is None or 0 <= wait <= 3600
