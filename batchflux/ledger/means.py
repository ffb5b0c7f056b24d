"""What a run may get without paying, besides what the ledger holds: as the manifest allows, and from kept answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.errors import Code, JobError
from batchflux.ledger.tables import get_meta
from batchflux.output.durable import unreadable
from batchflux.output.image_store import accepted
from batchflux.providers import READER, providers

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from batchflux.manifest import Manifest
    from batchflux.models import Finished, Job

NOTE = "reader"  # in the ledger: the version of the reader that has read all answers that are kept


def _reads_nothing(_job: Job, name: str) -> Finished:
    raise JobError(Code.BAD_ANSWER, f"{name} was not read again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """`accept` are the DIFFERENCES that are taken, `hosts` tells whether links to private hosts may lead anywhere.

    `read` returns the picture in a kept answer of a job; JobError: today's reader finds none. `newer`: the reader is
    newer than the one that has read them all.
    """

    accept: frozenset[str] = frozenset()
    hosts: bool = False
    newer: bool = False
    read: Callable[[Job, str], Finished] = _reads_nothing

    def why(self, job: Job, name: str) -> JobError | None:
        """Return why there is no picture in a kept answer, as today's reader sees it; None: there is one."""
        try:
            self.read(job, name)
        except JobError as error:
            return error
        return None


NO_MEANS = Means()
"""What there is to go by where no manifest is at hand."""


def means_of(manifest: Manifest, connection: sqlite3.Connection) -> Means:
    """Return the means of a run of this manifest."""
    root = manifest.output.dir

    def read(job: Job, name: str) -> Finished:
        try:
            body = (root / name).read_bytes()
        except FileNotFoundError:
            raise JobError(Code.BAD_ANSWER, f"the answer kept in {root / name} is gone") from None
        except OSError as error:
            raise unreadable(root / name, error) from error
        provider = manifest.providers.get(job.provider, manifest.provider)  # one that was renamed
        reader = providers().get((provider.api, job.style))
        if reader is None:
            raise JobError(Code.BAD_ANSWER, f"{root / name} is of {job.provider}, which the manifest does not have")
        return reader.read_again(job, body, base_url=provider.base_url or "")

    return Means(
        accept=accepted(manifest.output.accept),
        hosts=any(provider.allow_hosts for provider in manifest.providers.values()),
        newer=int(get_meta(connection, NOTE) or READER) < READER,
        read=read,
    )


def exists_in(manifest: Manifest) -> Callable[[str], bool]:
    """Return a function that tells whether a file, named relative to the output folder, is there."""
    root = str(manifest.output.dir) + os.sep
    return lambda name: os.path.exists(root + name)  # noqa: PTH110  called a million times; a Path doubles the cost
