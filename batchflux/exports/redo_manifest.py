"""From what a review asked to redo to a manifest of its own: `batchflux export-review`.

Each waiting redo is a job written out in full. Provider (unless the run was given another) and limits are taken from
the folder's manifest.yaml as they were written, `${NAME}` and all. What a person wrote without quotes stays so
(`16:9`), everything else is written in double quotes, escaped so that it is no template.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchflux.errors import ManifestError, UsageError
from batchflux.ledger.connection import beside
from batchflux.ledger.reviews import waiting_redos
from batchflux.ledger.tables import get_meta, known_by_key
from batchflux.manifest.identity import checked_name, folded, redo_id
from batchflux.manifest.job_fields import MAX_ID, STYLES, asked, from_asked
from batchflux.manifest.loader import apply_overrides
from batchflux.manifest.providers.config import api_of, known_providers
from batchflux.manifest.reading.diagnostics import Faults
from batchflux.manifest.reading.values import is_template, is_url
from batchflux.manifest.reading.yaml_nodes import Items, Node, Scalar, Table, plain_data, read_tree
from batchflux.manifest.redo import choose
from batchflux.models import Job, Reference
from batchflux.output.base import MANIFEST
from batchflux.output.folder import ledger_of, write_whole
from batchflux.providers import capabilities

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from batchflux.ledger.reviews import Waiting
    from batchflux.ledger.tables import Known

MARK = "# Written by batchflux export-review"
_DIGITS = 8  # of a key behind an id that another redo has
_NAME = 95  # characters; a name has at most 100
_OF_OUTPUT = frozenset({"verify", "max_bytes", "accept", "csv"})  # that hold in any folder
_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_JINJA = re.compile(r"\{[{%#]")


class Exported(NamedTuple):
    """A manifest's text, of how many jobs it is, and the folder that running it will write to."""

    text: str
    jobs: int
    folder: str


def export_review(out: Path, target: Path) -> Exported:
    """Write a redo_manifest; UsageError when `target` is somebody else's file, StorageError when it takes none."""
    exported = redo_manifest(out, target.absolute().parent)
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target} cannot be written, for there is no such folder: make it, or name another file.")
    try:
        with target.open(encoding="utf-8", errors="replace") as file:
            if file.read(len(MARK)) != MARK:
                raise UsageError(f"{target} is there and was not written by export-review: name another file.")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({error.strerror}): name another file.") from error
    write_whole(target, exported.text)
    return exported


def redo_manifest(out: Path, place: Path) -> Exported:
    """Return a manifest of the redos that wait in an output folder, to be read in the folder `place`.

    Raises UsageError when none waits or the folder's manifest.yaml is missing, StorageError for an unreadable ledger.
    """
    with closing(beside(ledger_of(out))) as connection:
        waiting = waiting_redos(connection)
        if not waiting:
            raise UsageError(f"Nothing waits to be redone in {out}: ask for it with batchflux review {out}.")
        base = Path(get_meta(connection, "base") or os.curdir)
        parents = [_job(connection, one.redo.origin) for one in waiting]
        root = _manifest(out, parents[0].provider)
        jobs = _jobs(connection, waiting, parents, root)
    folder = f"{out}-redo"
    document = _document(root, jobs, folder)
    entries = []
    for job in jobs:
        options = _section(Table(0, _of_provider(root, job)), "options")
        entries.append(_entry(job, base, place, options, several="providers" in document.pairs))
    document.pairs["jobs"] = Items(0, entries)
    head = f"{MARK} from {json.dumps(str(out), ensure_ascii=True)}: what a review asked to redo.\n"
    return Exported(text=head + yaml_text(document), jobs=len(jobs), folder=folder)


def _jobs(connection: sqlite3.Connection, waiting: Sequence[Waiting], parents: Sequence[Job], root: Table) -> list[Job]:
    """Return what the redos come to. Their keys are not those of a run: only what differs matters."""
    jobs: dict[str, Job] = {}
    taken: set[str] = set()
    for one, parent in zip(waiting, parents, strict=True):
        given = {key: node.text for key, node in _of_provider(root, parent).items() if isinstance(node, Scalar)}
        api = api_of(given.get("name", parent.provider), given.get("api"), known_providers(capabilities()))
        offers = {offer.style: offer for offer in capabilities() if offer.api == api}
        if parent.style not in offers:
            raise UsageError(f"The API {api} has no call style {parent.style}: put back the manifest.yaml of the run.")
        job = choose(parent, one.redo, offers[parent.style].for_model(parent.model), api, lambda key: key not in taken)
        name = redo_id(_job(connection, one.root).id, one.redo.ordinal)
        if folded(name) in jobs:  # of a job that had this id before it was edited, say
            name = f"{name[: MAX_ID - _DIGITS - 1]}-{job.key[:_DIGITS]}"
        taken.add(job.key)
        jobs[folded(name)] = replace(job, id=name)
    return list(jobs.values())


def _job(connection: sqlite3.Connection, key: str) -> Job:
    """Return a job as far as the ledger knows it."""
    return job_of(known_by_key(connection, [key])[key])


def job_of(known: Known) -> Job:
    """Return the job of a ledger's row, all but its webhook; its references have no digests."""
    spec: dict[str, Any] = json.loads(known.spec)
    images = [Reference(source=source, **{"url" if is_url(source) else "path": source}) for source in spec["images"]]
    return Job(
        id=known.id,
        key=known.key.hex(),
        **{name: spec[name] for name in ("prompt", "style", "model", "provider")},
        file_name=known.planned,
        position=known.position,
        images=tuple(images),
        tags=tuple(json.loads(known.tags).items()) if known.tags else (),
        dropped=tuple(spec.get("dropped", ())),
        **from_asked(spec),
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
    # A template may read a table that the new manifest does not have.
    fixed = all(isinstance(node, Scalar) and not is_template(node.text) for node in hook.values())
    return table(
        version=plain_scalar(1),
        name=quoted_scalar(f"{name.strip()[:_NAME]}-redo"),
        provider=root.pairs.get("provider"),
        providers=root.pairs.get("providers"),
        fallback=root.pairs.get("fallback"),
        fallback_on=root.pairs.get("fallback_on"),
        limits=root.pairs.get("limits"),
        references=root.pairs.get("references"),
        stores=root.pairs.get("stores"),
        output=table(
            dir=quoted_scalar(folder),
            file_name=None if _name_files(jobs) else quoted_scalar("{{ key }}.{{ ext }}"),
            **{name: node for name, node in output.items() if name in _OF_OUTPUT},
        ),
        defaults=table(**hook) if hook and fixed else None,
    )


def _section(root: Table, name: str) -> dict[str, Node]:
    section = root.pairs.get(name)
    return section.pairs if isinstance(section, Table) else {}


def _of_provider(root: Table, job: Job) -> dict[str, Node]:
    """Return what the manifest says of the provider that made a job."""
    several = _section(root, "providers").get(job.provider)
    return several.pairs if isinstance(several, Table) else _section(root, "provider")


def _name_files(jobs: Sequence[Job]) -> bool:
    """Whether the jobs' ids can name their files."""
    try:
        return len({folded(checked_name(f"{job.id}.jpg")) for job in jobs}) == len(jobs)
    except ValueError:
        return False


def _entry(job: Job, base: Path, beside_target: Path, of_provider: Mapping[str, Node], *, several: bool) -> Node:
    """Write a job out: all that it asks for, but what its style left out."""
    given = {name: value for name, value in asked(job).items() if name not in job.dropped}
    variant, options = given.pop("variant", None), given.pop("options", {})
    entry = {
        "id": job.id,
        "prompt": job.prompt,
        "images": [_source(image.source, base, beside_target) for image in job.images] or None,
        **given,
        "mask": None if job.mask is None or "mask" in job.dropped else _source(job.mask.source, base, beside_target),
        "provider": job.provider if several else None,
        "model": job.model,
        "style": job.style if job.style in STYLES else None,
        "options": {key: value for key, value in options.items() if not _says(of_provider.get(key), value)} or None,
        "variant": variant,
        "tags": dict(job.tags) or None,
    }
    return _json_node({name: value for name, value in entry.items() if value is not None})


def _source(source: str, base: Path, beside_target: Path) -> str:
    """Return a reference as it is written in a manifest in another folder."""
    absolute = is_url(source) or Path(source).is_absolute() or source.startswith("~")
    return source if absolute else os.path.relpath(base / source, beside_target)


def _says(node: Node | None, value: Any) -> bool:
    """Whether the provider's options say the same already; the value of a variable is never written out."""
    return node is not None and ((isinstance(node, Scalar) and "${" in node.text) or plain_data(node) == value)


def quoted_scalar(text: str) -> Scalar:
    """Return a node for text that is to be read back as it is."""
    return Scalar(text, plain=False, line=0)


def plain_scalar(value: float | None) -> Scalar:
    """Return a node for a number, a boolean or null."""
    return Scalar(json.dumps(value), plain=True, line=0)


def literal(text: str) -> Scalar:
    """Return a node for text of a field that may be a template, so that it renders as it is."""
    return quoted_scalar(_JINJA.sub(lambda match: f"{{{{ '{match[0]}' }}}}", text))


def _json_node(value: Any) -> Node:
    """Return a node for JSON data."""
    if isinstance(value, dict):
        return Table(0, {name: _json_node(item) for name, item in value.items()})
    if isinstance(value, list):
        return Items(0, [_json_node(item) for item in value])
    return literal(value) if isinstance(value, str) else plain_scalar(value)


def table(**pairs: Node | None) -> Table:
    """Return a mapping of what is given."""
    return Table(0, {name: node for name, node in pairs.items() if node is not None})


def yaml_text(root: Table) -> str:
    """Return the YAML of a mapping, in block style."""
    return "\n".join(_lines(root)) + "\n"


def _lines(node: Table | Items) -> Iterator[str]:
    pairs = [(f"{_key(key)}:", child) for key, child in node.pairs.items()] if isinstance(node, Table) else None
    for head, child in pairs if pairs is not None else [("-", item) for item in getattr(node, "items", [])]:
        if isinstance(child, Scalar):
            # A plain scalar over several lines was folded: it needs quotes now to stay on one.
            plain = child.plain and child.text.isprintable()
            yield f"{head} {child.text if plain else _quoted(child.text)}".rstrip()
            continue
        lines = [f"  {line}" for line in _lines(child)]
        if not lines:
            yield f"{head} {'{}' if isinstance(child, Table) else '[]'}"
        elif head == "-":
            yield f"- {lines.pop(0)[2:]}"
        else:
            yield head
        yield from lines


def _key(key: str) -> str:
    return key if _SIMPLE.fullmatch(key) and key.lower() not in {"null", "true", "false"} else _quoted(key)


def _quoted(text: str) -> str:
    """Return text in double quotes; YAML and Python write what is not printable the same way."""
    kept = (char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode() for char in text)
    return '"' + "".join(kept).replace('"', '\\"') + '"'
