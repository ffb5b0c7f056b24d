"""From what a review asked to redo to a manifest of its own: `batchflux export-review`.

The rule: each waiting redo is a job written out in full, so the manifest needs none of the tables and templates of the
one it comes from. Provider and limits are taken from the folder's manifest.yaml as they were written, `${NAME}` and
all; where the run was told another provider, that one counts. It has an output folder of its own.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchflux.errors import ManifestError, UsageError
from batchflux.manifest.job_fields import MAX_ID
from batchflux.manifest.identity import redo_id
from batchflux.ledger.connection import beside
from batchflux.ledger.reviews import waiting_redos
from batchflux.ledger.tables import COLUMNS, Known, get_meta
from batchflux.manifest.diagnostics import Faults
from batchflux.manifest.identity import checked_name, folded
from batchflux.manifest.loader import apply_overrides
from batchflux.manifest.yaml_nodes import read_tree
from batchflux.manifest.redo import choose
from batchflux.manifest.yaml_nodes import Items, Node, Scalar, Table
from batchflux.manifest.values import is_url
from batchflux.exporting import literal, plain_scalar, quoted_scalar, table, yaml_text
from batchflux.models import Job, Reference
from batchflux.output.base import LEDGER, MANIFEST
from batchflux.output.folder import write_whole
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from batchflux.ledger.reviews import Waiting

MARK = "# Written by batchflux export-review"
_DIGITS = 8  # of a key behind an id that another redo has
_NAME = 95  # characters; a name has at most 100
_TEMPLATES = ("{{", "{%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A manifest's text, of how many jobs it is, and the folder that running it will write to."""

    text: str
    jobs: int
    folder: str


def export_review(out: Path, target: Path) -> Exported:
    """Write a manifest of the redos that wait in an output folder.

    Raises:
        UsageError: as for `redo_manifest`, or `target` is a file of somebody else.
        StorageError: the ledger cannot be read, or `target` not be written.
    """
    exported = redo_manifest(out, target.absolute().parent)
    _check_target(target)
    write_whole(target, exported.text)
    return exported


def redo_manifest(out: Path, place: Path) -> Exported:
    """Return a manifest of the redos that wait in an output folder, to be read in the folder `place`.

    Raises:
        UsageError: `out` is no output folder, nothing waits in it, or its manifest.yaml is missing.
        StorageError: the ledger cannot be read.
    """
    ledger = out / LEDGER
    if not ledger.is_file():
        raise UsageError(f"{out} is no output folder: it has no {LEDGER}. Name the folder that a run wrote to.")
    with closing(beside(ledger)) as connection:
        waiting = waiting_redos(connection)
        if not waiting:
            raise UsageError(f"Nothing waits to be redone in {out}: ask for it with batchflux review {out}.")
        base = Path(get_meta(connection, "base") or os.curdir)
        jobs = _jobs(connection, waiting)
    folder = f"{out}-redo"
    document = _document(_manifest(out, jobs[0].provider), jobs, folder)
    document.pairs["jobs"] = Items(0, [_entry(job, base, place) for job in jobs])
    head = f"{MARK} from {json.dumps(str(out), ensure_ascii=True)}: what a review asked to redo.\n"
    return Exported(text=head + yaml_text(document), jobs=len(jobs), folder=folder)


def _check_target(target: Path) -> None:
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target} cannot be written, for there is no such folder: make it, or name another file.")
    try:
        with target.open(encoding="utf-8", errors="replace") as file:
            if file.read(len(MARK)) != MARK:
                raise UsageError(f"{target} is there and was not written by export-review: name another file.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({error.strerror}): name another file.") from error


def _jobs(connection: sqlite3.Connection, waiting: Sequence[Waiting]) -> list[Job]:
    """Return what the redos come to. Their keys are not those of a run: only what differs matters."""
    jobs: list[Job] = []
    taken: set[str] = set()
    names: set[str] = set()

    def free(key: str) -> bool:
        new = key not in taken
        taken.add(key)
        return new

    for one in waiting:
        parent, root = _job(connection, one.redo.origin), _job(connection, one.root)
        job = choose(parent, one.redo, capabilities()[parent.style], free)
        name = redo_id(root.id, one.redo.ordinal)
        if folded(name) in names:  # of a job that had this id before it was edited, say
            name = f"{name[: MAX_ID - _DIGITS - 1]}-{job.key[:_DIGITS]}"
        names.add(folded(name))
        jobs.append(replace(job, id=name))
    return jobs


def _job(connection: sqlite3.Connection, key: str) -> Job:
    """Return a job as far as the ledger knows it: all but its webhook."""
    query = f"SELECT {COLUMNS} FROM known WHERE key = ?"  # noqa: S608  a constant
    known = Known.of(connection.execute(query, (bytes.fromhex(key),)).fetchone())
    spec: dict[str, Any] = json.loads(known.spec)
    images = [Reference(source=source, **{"url" if is_url(source) else "path": source}) for source in spec["images"]]
    return Job(
        id=known.id,
        key=key,
        prompt=spec["prompt"],
        style=spec["style"],
        model=spec["model"],
        provider=spec["provider"],
        file_name=known.planned,
        position=known.position,
        images=tuple(images),
        seed=spec.get("seed"),
        aspect_ratio=spec.get("aspect_ratio"),
        output_format=spec.get("output_format"),
        safety_tolerance=spec.get("safety_tolerance"),
        prompt_upsampling=spec.get("prompt_upsampling"),
        variant=spec.get("variant", 1),
        tags=tuple(json.loads(known.tags).items()) if known.tags else (),
        dropped=tuple(spec.get("dropped", ())),
    )


def _manifest(out: Path, provider: str) -> Table:
    """Return the tree of the folder's manifest.yaml, nothing expanded, with the provider that was really used."""
    path = out / MANIFEST
    faults = Faults(str(path))
    try:
        root = read_tree(path.read_bytes(), str(path), faults.note)
    except (OSError, ManifestError) as error:
        raise UsageError(f"{path} cannot be read ({error}): put it back, or run the manifest once more.") from error
    if not isinstance(root, Table):
        raise UsageError(f"{path} is no manifest: put it back, or run the manifest once more.")
    apply_overrides(root, (), provider, faults)
    return root


def _document(root: Table, jobs: Sequence[Job], folder: str) -> Table:
    """Return all of the manifest but its jobs."""
    given = root.pairs.get("name")
    name = given.text if isinstance(given, Scalar) and not given.is_null else Path(folder).name.removesuffix("-redo")
    output = _section(root, "output")
    hook = {key: node for key, node in _section(root, "defaults").items() if key.startswith("webhook_")}
    return table(
        version=plain_scalar(1),
        name=quoted_scalar(f"{name.strip()[:_NAME]}-redo"),
        provider=root.pairs.get("provider"),
        limits=root.pairs.get("limits"),
        output=table(
            dir=quoted_scalar(folder),
            file_name=None if _name_files(jobs) else quoted_scalar("{{ key }}.{{ ext }}"),
            verify=output.get("verify"),
            max_bytes=output.get("max_bytes"),
        ),
        defaults=table(**hook) if hook and not any(map(_is_template, hook.values())) else None,
    )


def _section(root: Table, name: str) -> dict[str, Node]:
    section = root.pairs.get(name)
    return section.pairs if isinstance(section, Table) else {}


def _is_template(node: Node) -> bool:
    """Whether it may read a table that the new manifest does not have."""
    return not isinstance(node, Scalar) or any(mark in node.text for mark in _TEMPLATES)


def _name_files(jobs: Sequence[Job]) -> bool:
    """Whether the jobs' ids can name their files."""
    try:
        names = {folded(checked_name(f"{job.id}.jpg")) for job in jobs}
    except ValueError:
        return False
    return len(names) == len(jobs)


def _entry(job: Job, base: Path, beside_target: Path) -> Table:
    """Write a job out: all that it asks for, but what its style left out."""
    asked = {
        name: value
        for name in ("seed", "aspect_ratio", "output_format", "safety_tolerance", "prompt_upsampling")
        if (value := getattr(job, name)) is not None and name not in job.dropped
    }
    images = [literal(_source(image.source, base, beside_target)) for image in job.images]
    return table(
        id=literal(job.id),
        prompt=literal(job.prompt),
        images=Items(0, list(images)) if images else None,
        **{name: quoted_scalar(v) if isinstance(v, str) else plain_scalar(v) for name, v in asked.items()},
        model=literal(job.model),
        style=quoted_scalar(job.style),
        variant=plain_scalar(job.variant) if job.variant != 1 else None,
        tags=Table(0, {name: literal(value) for name, value in job.tags}) if job.tags else None,
    )


def _source(source: str, base: Path, beside_target: Path) -> str:
    """Return a reference as it is written in a manifest in another folder."""
    if is_url(source) or os.path.isabs(source):  # noqa: PTH117  text that goes into a manifest
        return source
    return os.path.relpath(base / source, beside_target)
