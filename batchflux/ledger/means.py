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

    from batchflux.manifest import Manifest, ProviderConfig
    from batchflux.models import Finished, Job
    from batchflux.providers import Provider

NOTE = "reader"  # in the ledger: the version of the reader that has read all answers that are kept


def _reads_nothing(_job: Job, name: str) -> Finished:
    raise JobError(Code.BAD_ANSWER, f"{name} was not read again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """`accept` are the DIFFERENCES that are taken, `hosts` tells whether links to private hosts may lead anywhere.

    `read` returns the picture in a kept answer of a job; JobError: today's reader finds none. `newer`: the reader is
    newer than the one that has read them all. `finds_lost` says of a job, as it was made, whether its API can tell if a
    request of it was accepted whose answer was lost.
    """

    accept: frozenset[str] = frozenset()
    hosts: bool = False
    newer: bool = False
    read: Callable[[Job, str], Finished] = _reads_nothing
    finds_lost: Callable[[Job], bool] = lambda _: False

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

    def asked(job: Job) -> tuple[Provider | None, ProviderConfig]:
        config = manifest.providers.get(job.provider, manifest.provider)  # one that was renamed
        return providers().get((config.api, job.style)), config

    def read(job: Job, name: str) -> Finished:
        try:
            body = (root / name).read_bytes()
        except FileNotFoundError:
            raise JobError(Code.BAD_ANSWER, f"the answer kept in {root / name} is gone") from None
        except OSError as error:
            raise unreadable(root / name, error) from error
        reader, config = asked(job)
        if reader is None:
            raise JobError(Code.BAD_ANSWER, f"{root / name} is of {job.provider}, which the manifest does not have")
        return reader.read_again(job, body, base_url=config.base_url or "")

    def finds_lost(job: Job) -> bool:
        provider, _ = asked(job)
        return provider is not None and provider.capabilities(job.model).finds_lost

    return Means(
        accept=accepted(manifest.output.accept),
        hosts=any(one.allow_hosts or len(one.addresses) > 1 for one in manifest.providers.values()),
        newer=int(get_meta(connection, NOTE) or READER) < READER,
        read=read,
        finds_lost=finds_lost,
    )


def exists_in(manifest: Manifest) -> Callable[[str], bool]:
    """Return a function that tells whether a file, named relative to the output folder, is there."""
    root = str(manifest.output.dir) + os.sep
    return lambda name: os.path.exists(root + name)  # noqa: PTH110  called a million times; a Path doubles the cost
