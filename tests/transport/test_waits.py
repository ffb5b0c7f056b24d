"""A wait that is told in words only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import JobError
from batchflux.providers import providers
from batchflux.transport.waits import wait_in_words

if TYPE_CHECKING:
    from tests.conftest import MakeJob


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached, reset after 2h23m", 8580.0),
        ("Please retry after 37 seconds", 37.0),
        ("Rate limit reached for gpt-image-1. Please try again in 6m0s.", 360.0),
        ("Please try again in 129ms.", 0.129),
        ("You exceeded your quota. Please retry in 37.123s.", 37.123),
        ("Too many requests: wait 1 minute and 30 seconds", 90.0),
        ("available again in 1 hour, 5 mins", 3900.0),
        ("resets in 2 days", 86_400.0),
        ("请在 30 秒后重试", 30.0),
        ("请求过于频繁 2小时23分钟后再试", 8580.0),
        ("Retry after 10 S", 10.0),
        ("Limit: 60 requests per 1 minute. Try again later.", None),
        ("3 requests in 60 seconds are allowed", None),
        ("retry 3 times", None),
        ("slow down", None),
        ("", None),
    ],
)
def test_words(text: str, seconds: float | None) -> None:
    assert wait_in_words(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("header", "seconds"), [("", 37.0), ("Retry-After: 2\r\n", 2.0)])
async def test_words_count_where_no_header_tells(
    serve: Any, connect: Any, make_job: MakeJob, header: str, seconds: float
) -> None:
    body = '{"error": {"message": "Please retry after 37 seconds", "code": "rate_limit_exceeded"}}'
    head = f"HTTP/1.1 429 X\r\n{header}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    transport = await connect((await serve(["read", (head + body).encode()])).url)
    with pytest.raises(JobError) as failed:
        await transport.exchange(providers()["flux-relay", "standard"].submit(make_job(), 1))
    assert failed.value.retry_after == seconds
