from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.ports import kept_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port where nobody listens, and that no other test is given meanwhile."""
    with kept_port() as port:
        yield port
