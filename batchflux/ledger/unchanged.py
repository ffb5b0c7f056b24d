"""How a folder stands whose manifest is what it was, told without making the jobs again.

The rule: a survey that went through all jobs leaves a mark in the ledger, a digest of everything that the jobs were
made of, once ledger and files are in line with them. While the digest is the same, the ledger tells what is left: the
jobs that it knows, and as many more as the mark counts besides. In doubt there is no mark and the jobs are made: where
a job has a local reference (its bytes count), where an axis is a glob, where somebody asked for a redo, and where a
table was changed within RACY seconds before it was read (a change within one tick of the clock cannot be seen;
https://git-scm.com/docs/racy-git).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

from batchflux._version import __version__
from batchflux.ledger.ledger import Known, get_meta, set_meta
from batchflux.ledger.reviews import redos
from batchflux.ledger.selection import Selection, Work, standing, work_for
from batchflux.ledger.survey import LEAN_COLUMNS, Numbers, Survey
from batchflux.models import Job

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from batchflux.manifest import Manifest

MARK = "in_line"
RACY = 2.0  # seconds; the coarsest time stamps of common file systems (FAT)
_NOTED = ("total", "merged", "unlisted", "styles", "vetted")
# What there is to do for a job that the ledger knows does not depend on the job, where none has a local reference.
_ANY = Job(id="", key="", prompt="", style="standard", model="", provider="", file_name="", position=0)
_SECRET = "webhook_secret"  # noqa: S105  a field's name; it does not change a picture, and no digest of it is kept


def digest_of(manifest: Manifest, before: float | None = None) -> str | None:
    """Return a digest of what the jobs of `manifest` are made of, as far as the manifest tells; None in doubt.

    Args:
        manifest: what the jobs come from.
        before: the time, in epoch seconds, before which its tables must have been changed for the last time.
    """
    if any(axis.kind == "glob" for entry in manifest.entries for axis in entry.axes):
        return None
    digest = hashlib.sha256(f"{__version__} {manifest.base}".encode(errors="surrogateescape"))
    provider, output = manifest.provider, manifest.output
    parts = [provider.name, provider.style, provider.model, provider.params, provider.base_url, output.file_name]
    parts += [provider.api, "" if provider.simulated else repr(provider.options)]
    for entry in manifest.entries:
        fields = {name: value for name, value in entry.fields.items() if name != _SECRET}
        parts += [repr(fields), entry.source, repr(entry.axes), repr(entry.exclude)]
    digest.update(repr(parts).encode(errors="surrogatepass"))
    for path in _files(manifest):
        try:
            found = os.stat(path)  # noqa: PTH116  a plain path
        except OSError:
            return None
        if before is not None and max(found.st_mtime, found.st_ctime) > before - RACY:
            return None
        stamp = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(stamp).encode(errors="surrogatepass"))
    return digest.hexdigest()


def mark(connection: sqlite3.Connection, digest: str | None, survey: Survey) -> None:
    """Note that the folder is in line with the jobs that `survey` went through, made of what `digest` stands for."""
    kept = digest is not None and not survey.local_files
    counts = {name: getattr(survey, name) for name in _NOTED}
    set_meta(connection, MARK, json.dumps({"digest": digest, **counts}) if kept else "")


def unchanged(
    connection: sqlite3.Connection,
    manifest: Manifest,
    selection: Selection,
    exists: Callable[[str], bool],
    *,
    unfinished: bool = False,
) -> Survey | None:
    """Return the survey of a folder that stands as its manifest wants it; None: then the jobs must be gone through.

    A survey of what is left to do comes with `unfinished` only; it names no samples.
    """
    if selection.only is not None or selection.limit is not None or selection.redo or redos(connection):
        return None
    noted = json.loads(get_meta(connection, MARK) or "{}")
    if not noted or noted["digest"] != digest_of(manifest):
        return None
    largest = connection.execute("SELECT COALESCE(MAX(number), 0) FROM jobs").fetchone()[0]
    survey = Survey(redone=Numbers(largest), **{name: noted[name] for name in _NOTED})
    for known in _not_simply_done(connection, survey, exists):
        _count(survey, known, work_for(_ANY, known, selection, exists))
    survey.new = survey.total - survey.done - survey.failed - survey.unknown - survey.pending
    survey.todo += survey.new
    survey.calls += survey.new
    return survey if survey.new >= 0 and (unfinished or not survey.todo) else None


def _not_simply_done(connection: sqlite3.Connection, survey: Survey, exists: Callable[[str], bool]) -> Iterator[Known]:
    """Count the jobs that are done and have their pictures; yield the others that the folder knows."""
    query = f"SELECT {LEAN_COLUMNS} FROM jobs WHERE listed AND"  # noqa: S608  constants, as below
    for row in connection.execute(f"{query} status != 'done'").fetchall():
        yield Known.of(row)
    lost: list[int] = []
    for number, name in connection.execute("SELECT number, file_name FROM jobs WHERE listed AND status = 'done'"):
        if name is not None and exists(name):
            survey.done += 1
        else:
            lost.append(number)
    for number in lost:
        yield Known.of(connection.execute(f"{query} number = ?", (number,)).fetchone())


def _count(survey: Survey, known: Known, work: Work | None) -> None:
    status = standing(known)
    setattr(survey, status, getattr(survey, status) + 1)
    if work is not None:
        survey.todo += 1
        survey.calls += work.costs
        survey.redone.add(known.number)


def _files(manifest: Manifest) -> Iterator[str]:
    """Yield the files that jobs are read from."""
    for entry in manifest.entries:
        if entry.source is not None:
            yield str(manifest.base / entry.source)
        for axis in entry.axes:
            if axis.kind == "lines":
                yield from (str(manifest.base / str(value)) for value in axis.values)
