"""Another try at a job: what a redo becomes.

A redo is its origin (the job it tries again) with a new seed where the origin has one and its style carries seeds, or
where one was asked for; otherwise with the next free `variant`. The choice gives a key that neither the manifest nor
the ledger has, so it is paid for once. It follows from the redo alone: a run makes what `plan` shows, and pins it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING

from batchflux.manifest.identity import key_of_job
from batchflux.manifest.sameness import parted
from batchflux.models import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.models import Job

SEEDS = 2**31 - 1  # what every provider takes as a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Redo:
    """Another try at a job that a person asked for: the same job with a new seed or variant.

    `number` is what the ledger knows it by, `origin` the key of the job it tries again, `ordinal` its place among all
    redos that go back to one job. `prompt` None keeps the origin's. `variant` and `key` are None until a run pins the
    redo; until then `seed` is what was asked for.
    """

    number: int
    origin: str
    ordinal: int
    prompt: str | None = None
    seed: int | None = None
    variant: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A redo and the job it became."""

    redo: Redo
    job: Job


class Redos:
    """The redos of one expansion: learns of the manifest's jobs as they are met, and says which redos follow.

    `asked` has redos by the key of the job they try again, each family in its order; `is_known` tells whether the
    ledger has a job of a key, or a redo that was pinned to it. `jobs` holds what was made of them.
    """

    def __init__(self, asked: Mapping[str, Sequence[Redo]], is_known: Callable[[str], bool]) -> None:
        self.asked = asked
        self.is_known = is_known
        self.jobs: list[Made] = []
        self._next: deque[tuple[Job, Job]] = deque()
        self._met: set[str] = set()

    @property
    def left(self) -> list[Redo]:
        """The redos of jobs that were not met."""
        return [redo for origin, redos in self.asked.items() if origin not in self._met for redo in redos]

    def met(self, job: Job, root: Job | None = None) -> None:
        """Take notice of a job of the manifest, or of a redo that goes back to `root` and may have redos itself."""
        if job.key in self.asked:
            self._next.append((root or job, job))

    def made(self, redo: Redo, root: Job, job: Job) -> None:
        """Take notice of what a redo became."""
        self.jobs.append(Made(redo=redo, job=job))
        self.met(job, root)

    def wanted(self) -> Iterator[tuple[Job, Job, Redo]]:
        """Yield each redo behind the manifest's job it goes back to and the job it tries again, once all were met."""
        while self._next:
            root, parent = self._next.popleft()
            self._met.add(parent.key)
            for redo in self.asked[parent.key]:
                yield root, parent, redo


def choose(parent: Job, redo: Redo, offer: Capabilities, api: str, free: Callable[[str], bool]) -> Job:
    """Return the job that tries `parent` again, but for its id and file name: the first choice whose key is `free`.

    `api` is what the keys are of.
    """
    tried = replace(parent, redo_of=parent.key, alias=None)
    if redo.prompt is not None:
        urls, prompt = parted(redo.prompt)
        had = {image.url for image in parent.images}
        front = [Reference(source=url, url=url) for url in urls if url not in had]
        tried = replace(tried, prompt=prompt, images=(*front, *parent.images))
    choices = (replace(tried, seed=seed, variant=variant) for seed, variant in _choices(parent, redo, offer))
    keyed = (replace(job, key=redo.key or key_of_job(job, api)) for job in choices)
    return next(job for job in keyed if redo.variant is not None or free(job.key))


def _choices(parent: Job, redo: Redo, offer: Capabilities) -> Iterator[tuple[int | None, int]]:
    if redo.variant is not None:
        yield redo.seed, redo.variant
        return
    carries = "seed" in offer.fields
    seed = parent.seed
    if carries and redo.seed is not None:
        seed = redo.seed
        yield seed, parent.variant
    elif carries and seed is not None:
        for attempt in count():
            digest = sha256(f"{parent.key} {redo.ordinal} {attempt}".encode()).digest()
            fresh = int.from_bytes(digest[:8]) % SEEDS
            if fresh != seed:
                yield fresh, parent.variant
    for variant in count(parent.variant + 1):
        yield seed, variant
