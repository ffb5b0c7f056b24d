"""A sample of a manifest's jobs: spread over entries, rows and axes, and the same ones each time.

Of each entry the jobs whose keys come first are candidates, which is chance and yet no chance; from these one after
another is taken whose entry, row and axis values were taken least. Nothing holds more than the candidates.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchflux.manifest import Expansion

CANDIDATES = 200_000  # of all entries together, unless more are asked for
_SPARE = 64
_DIGITS = 15  # of a key, by which jobs are ordered

Place = tuple[int, int | None, tuple[tuple[str, str], ...]]


def globs(only: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return what was given as `--only`, which may be given more than once; nothing where all jobs are meant."""
    return () if only is None else (only,) if isinstance(only, str) else tuple(only)


def is_meant(job_id: str, only: str | Sequence[str] | None) -> bool:
    """Whether `--only` means a job: its id matches a glob, or is just that, for an id may hold brackets."""
    wanted = globs(only)
    return not wanted or any(job_id == glob or fnmatchcase(job_id, glob) for glob in wanted)


def sampled(jobs: Expansion, size: int, entries: int, only: str | Sequence[str] | None) -> frozenset[int]:
    """Return the positions of `size` jobs that `only` means, or of all where there are fewer."""
    room = min(8 * size + _SPARE, max(size, CANDIDATES // max(1, entries)))
    found: dict[int, list[tuple[int, int, Place]]] = defaultdict(list)  # by entry: a heap, the last in order first
    for job in jobs:
        if job.redo_of is not None or not is_meant(job.id, only):
            continue
        place = jobs.place()
        heap, rank = found[place[0]], -int(job.key[:_DIGITS], 16)
        if len(heap) < room:
            heapq.heappush(heap, (rank, job.position, place))
        elif rank > heap[0][0]:
            heapq.heapreplace(heap, (rank, job.position, place))
    return _spread([candidate for heap in found.values() for candidate in heap], size)


def _spread(candidates: list[tuple[int, int, Place]], size: int) -> frozenset[int]:
    """Take those whose entry, row and axis values are taken least; what a job scores can only rise meanwhile."""
    taken: Counter[tuple[object, ...]] = Counter()
    chosen: set[int] = set()

    def score(place: Place) -> tuple[int, int]:
        entry, line, axes = place
        return taken[entry,], taken[entry, line] + sum(taken[entry, axis] for axis in axes)

    waiting = [((0, 0), -rank, position, place) for rank, position, place in candidates]
    heapq.heapify(waiting)
    while waiting and len(chosen) < size:
        before, rank, position, place = heapq.heappop(waiting)
        if (now := score(place)) != before:
            heapq.heappush(waiting, (now, rank, position, place))
            continue
        chosen.add(position)
        entry, line, axes = place
        taken.update([(entry,), (entry, line), *((entry, axis) for axis in axes)])
    return frozenset(chosen)
