"""Jobs as the ledger knows them, and folders with pictures."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.ledger.tables import Known

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = {"prompt": "A cup", "images": [], "model": "m", "provider": "simulator", "style": "chat"}


def known_of(number: int = 1, spec: dict[str, Any] | None = None, **changes: Any) -> Known:
    values: dict[str, Any] = dict.fromkeys(Known._fields)
    values |= {"number": number, "key": hashlib.sha256(str(number).encode()).digest(), "id": f"job-{number}"}
    values |= {"position": number, "listed": 1, "planned": f"images/{number}.png", "tags": "", "status": "done"}
    values |= {"attempts": 1, "possibly_billed": 0, "cost": 140_000_000, "maybe_cost": 0}
    values |= {"spec": json.dumps(SPEC | (spec or {})), **changes}
    return Known(**values)


@pytest.fixture
def known() -> Callable[..., Known]:
    """Makes a row of the ledger: `known(3, spec={...}, status="failed")`."""
    return known_of
