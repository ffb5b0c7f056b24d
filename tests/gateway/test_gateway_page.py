"""The manual's page on the gateway names what it answers with, as it is."""

from __future__ import annotations

import re

from batchflux.docs import page
from batchflux.gateway.answering.errors import ROWS
from batchflux.gateway.guard import BODY_SECONDS, MAX_BODY, MOST_HELD, MOST_OF_ONE, MOST_VALUES
from batchflux.gateway.listen import HEAD_SECONDS, MOST_CONNECTIONS

_ROW = re.compile(r"^\| (\d{3}) \| ([^|]*) \|", re.MULTILINE)


def test_each_error_with_its_status() -> None:
    told = {
        (int(status), code) for status, codes in _ROW.findall(page("gateway")) for code in re.findall(r"`(\w+)`", codes)
    }
    assert {(row.status, row.code) for row in ROWS.values()} <= told
    assert {(401, "invalid_api_key"), (403, "other_site"), (503, "overloaded"), (408, "request_too_slow")} <= told


def test_the_bounds_are_those_of_the_code() -> None:
    bounds = page("gateway").partition("- **Bounds**:")[2].partition("\n\n")[0]
    assert f"{MAX_BODY >> 20} MB, {MOST_VALUES:,} values and {BODY_SECONDS:g} s" in bounds
    assert MOST_OF_ONE * 2 == MOST_HELD
    assert f"{MOST_HELD >> 20} MB, and half of it of one client" in bounds
    assert f"{MOST_CONNECTIONS:,} connections, each with {HEAD_SECONDS:g} s" in bounds
