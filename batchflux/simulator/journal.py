"""Counts what was asked and answered, so that tests can prove that nothing was paid twice.

Counters by content remember the 32,768 contents asked last at least, in two generations: the simulator runs inside
`batchflux run`, whose memory must not grow with the number of jobs. Totals are exact for ever.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

GENERATION = 32_768
_KEY_DIGITS = 16


class Tally:
    """Counts by content, forgetting the contents that were not seen for a whole generation."""

    def __init__(self) -> None:
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def add(self, key: int) -> int:
        """Count one more and return how many there were before."""
        before = self._young.get(key)
        if before is None:
            before = self._old.get(key, 0)
            if len(self._young) >= GENERATION:
                self._old, self._young = self._young, {}
        self._young[key] = before + 1
        return before

    def counts(self) -> dict[int, int]:
        """Return the counts that are remembered."""
        return {**self._old, **self._young}


class Journal:
    """The counters of one simulator.

    `by_status` counts answers to API calls by HTTP status (a hang or a reset has none), `files` answers to fetched
    links, `faults` the faults given by name. `billed` counts the calls that a provider would charge: those that came
    as far as a picture, even when it was cut off or spoilt; `answered` the pictures that were sent whole.
    """

    def __init__(self) -> None:
        self.by_status: Counter[int] = Counter()
        self.files: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.received = 0
        self.billed = 0
        self.answered = 0
        self.repeated = 0
        self._asked = Tally()
        self._pictures = Tally()

    def ask(self, content: str) -> int:
        """Count a request for `content` (hex digits) and return how many came before it."""
        return self._asked.add(_key(content))

    def answer(self, content: str) -> None:
        """Count an answer with a picture that was sent to its end."""
        self.answered += 1
        if self._pictures.add(_key(content)):
            self.repeated += 1

    def pictures(self) -> dict[str, int]:
        """Return how many answers with a picture each content had, by the first 16 hex digits of its hash."""
        return {f"{key:0{_KEY_DIGITS}x}": count for key, count in self._pictures.counts().items()}

    def asked(self) -> dict[str, int]:
        """Return how often each content was asked, by the first 16 hex digits of its hash."""
        return {f"{key:0{_KEY_DIGITS}x}": count for key, count in self._asked.counts().items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the totals, for `GET /v1/simulator/stats`."""
        return {
            "received": self.received,
            "answered": self.answered,
            "billed": self.billed,
            "repeated": self.repeated,
            "by_status": {str(status): count for status, count in sorted(self.by_status.items())},
            "files": {str(status): count for status, count in sorted(self.files.items())},
            "faults": dict(sorted(self.faults.items())),
        }


def _key(content: str) -> int:
    return int(content[:_KEY_DIGITS], 16)
