"""One job on its way through a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchflux.engine.retry import Tries

if TYPE_CHECKING:
    from batchflux.ledger.selection import Work


@dataclass(slots=True, kw_only=True)
class Life:
    """What has happened to one job in this run; `began` in epoch seconds, `troubled` see Breaker."""

    work: Work
    tries: Tries = field(default_factory=Tries)
    fetches: Tries = field(default_factory=Tries)
    began: float = 0.0
    api_seconds: float | None = None
    download_seconds: float | None = None
    link: str | None = None
    troubled: bool = False
