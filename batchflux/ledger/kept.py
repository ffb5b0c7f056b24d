"""Keeps the jobs that a survey met, where they are few: a run need not make them a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchflux.models import Job

JOBS = 10_000  # about 10 MB
CHARACTERS = 16 << 20  # of prompts and references, which may be whole pictures


class Kept:
    """`jobs` are all that were added, in order, or None once they are too many."""

    def __init__(self) -> None:
        self.jobs: list[Job] | None = []
        self._characters = 0

    def add(self, batch: Sequence[Job]) -> None:
        """Keep these, too."""
        if self.jobs is None:
            return
        self.jobs.extend(batch)
        self._characters += sum(map(_characters, batch))
        if len(self.jobs) > JOBS or self._characters > CHARACTERS:
            self.jobs = None


def _characters(job: Job) -> int:
    return len(job.prompt) + sum(len(image.source) for image in job.images)
