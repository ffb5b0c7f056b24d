"""Jobs, and ledgers that say how each of them ended."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from batchflux.errors import Code, JobError
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import COLUMNS, Known
from batchflux.models import Job, Link, Outcome, Status, Stored
from tests.attempts import fail, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Finish(Protocol):
    def __call__(self, ledger: Ledger, job: Job, /, *, price: int = 140, **outcome: Any) -> None: ...


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger that works at once, in the calling thread."""
    opened = Ledger(tmp_path / "ledger.db", durable=False, threaded=False)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def stored() -> Callable[..., Stored]:
    """Say that a picture is in its place."""

    def make(file_name: str = "images/mug.png", data: bytes = b"picture") -> Stored:
        return Stored(
            file_name=file_name, width=64, height=48, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
        )

    return make


@pytest.fixture(scope="session")
def finish(stored: Callable[..., Stored]) -> Finish:
    """Send a job once, at epoch second `at` (1000), and end it at 1010: done, unless the outcome says otherwise."""

    def end(ledger: Ledger, job: Job, /, *, price: int = 140, **outcome: Any) -> None:
        send(ledger, job, price=price, at=outcome.pop("at", 1000.0))
        status = outcome.pop("status", Status.DONE)
        if status is Status.DONE:
            receive(ledger, job, Link(url=f"https://cdn.example/{job.id}.png"), api_seconds=2.5)
            outcome.setdefault("stored", stored(job.file_name))
        else:
            code = Code(outcome.setdefault("error_code", "server"))
            fail(ledger, job, JobError(code, "no", billed=code is Code.UNKNOWN), counts=True)
        outcome.setdefault("finished_at", 1010.0)
        ledger.finish(job, Outcome(status=status, **outcome))

    return end


@pytest.fixture(scope="session")
def rows() -> Callable[[Ledger], dict[str, Known]]:
    """Read all rows of a ledger, by id."""

    def read(ledger: Ledger) -> dict[str, Known]:
        query = f"SELECT {COLUMNS} FROM known"  # noqa: S608  a constant
        return {
            known.id: known
            for known in ledger.database.now(lambda connection: [Known.of(row) for row in connection.execute(query)])
        }

    return read
