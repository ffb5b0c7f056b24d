"""Tells who follows a run when one of several keys leaves the pool: the others hide it, and it may need replacing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.errors import Code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchflux.engine.key_pool import Key
    from batchflux.engine.ports import Observer
    from batchflux.models import Job, Outcome


class KeyWatch:
    """An observer that passes all on to `observer`, and tells it `key_refused` once for each key that died.

    The event names the key's environment variable, never the key. Of a pool of one nothing is told: its end is the
    run's, which says why.
    """

    def __init__(self, observer: Observer, keys: Sequence[Key]) -> None:
        self._observer = observer
        self._living = list(keys) if len(keys) > 1 else []

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Pass it on."""
        self._observer.ended(job, outcome)

    def event(self, name: str, /, **fields: Any) -> None:
        """Pass it on, and what it tells about the keys."""
        self._observer.event(name, **fields)
        dead = [key for key in self._living if key.dead is not None] if name == "attempt_failed" else []
        for key in dead:
            self._living.remove(key)
            error = key.dead
            if error is not None:
                what = "is out of balance" if error.code is Code.QUOTA else "was refused"
                text = f"The key in {key.name} {what} ({error.message}): this run goes on without it."
                self._observer.event("key_refused", key=key.name, code=error.code.value, message=text)
