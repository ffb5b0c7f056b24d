"""Output folders as a run leaves them, made at once: a real ledger, real pictures, as many as a test wants."""

from __future__ import annotations

import hashlib
import io
from contextlib import closing
from typing import TYPE_CHECKING, Any

from PIL import Image

from batchflux.ledger.connection import connect
from batchflux.ledger.reviews import judge, prepare_reviews
from batchflux.ledger.tables import prepare, set_meta, spec_text, tags_text
from batchflux.manifest.identity import key_of_job
from batchflux.models import Job, Reference

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

BEGAN = 1_780_000_000.0  # epoch seconds
_PICTURES: dict[tuple[int, str], bytes] = {}


def picture(number: int, kind: str = "jpeg", side: int = 32) -> bytes:
    """A picture that looks like no other: 64 fields, each light or dark by a bit of a digest."""
    bits = hashlib.sha256(str(number).encode()).digest()
    small = Image.frombytes("L", (8, 8), bytes(bits[one // 2] >> 4 * (one % 2) & 15 for one in range(64)))
    small = small.point([one * 17 if one < 16 else 255 for one in range(256)])
    stream = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).convert("RGB").save(stream, kind)
    return stream.getvalue()


def job(number: int, **more: Any) -> Job:
    """The job of this number: three seeds of each prompt."""
    given: dict[str, Any] = {
        "id": f"j{number}",
        "key": "",
        "prompt": f"a mug, {number // 3}",
        "style": "standard",
        "model": "m",
        "provider": "p",
        "file_name": f"images/j{number}.jpg",
        "position": number,
        "seed": number,
        "tags": (("sku", f"{number:05}"),),
    }
    made = Job(**(given | more))
    return made if made.key else Job(**(given | more | {"key": key_of_job(made, "openai")}))


def local(base: Path, source: str) -> Reference:
    """A reference in the folder `base`."""
    path = base / source
    return Reference(source=source, path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def folder(out: Path, jobs: Iterable[Job], *, side: int = 32, done: bool = True) -> Path:
    """An output folder in which these jobs are done."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    with closing(connect(out / "ledger.db", durable=False)) as connection:
        connection.execute("BEGIN")
        prepare(connection)
        set_meta(connection, "name", "mugs")
        set_meta(connection, "base", str(out.parent))
        for one in jobs:
            _insert(connection, out, one, picture(one.position, side=side), done=done)
        connection.execute("COMMIT")
    return out


def judged(out: Path, verdicts: dict[str, Any]) -> None:
    """Say of jobs by id what somebody thinks of their pictures."""
    with closing(connect(out / "ledger.db", durable=False)) as connection:
        prepare_reviews(connection)
        connection.execute("BEGIN")
        for name, verdict in verdicts.items():
            (key,) = connection.execute("SELECT key FROM jobs WHERE id = ?", (name,)).fetchone()
            judge(connection, [key], verdict, None, BEGAN)
        connection.execute("COMMIT")


def put(out: Path, file_name: str, data: bytes) -> None:
    """Have another picture in this place, on record too."""
    (out / file_name).write_bytes(data)
    with closing(connect(out / "ledger.db")) as connection:
        values = len(data), hashlib.sha256(data).hexdigest(), file_name
        connection.execute("UPDATE jobs SET bytes = ?, sha256 = ? WHERE file_name = ?", values)


def _insert(connection: sqlite3.Connection, out: Path, one: Job, data: bytes, *, done: bool) -> None:
    path = out / one.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "png" if path.suffix == ".png" else "jpeg"
    if kind == "png":
        data = picture(one.position, "png")
    path.write_bytes(data)
    row = {
        "key": bytes.fromhex(one.key),
        "id": one.id,
        "position": one.position,
        "planned": one.file_name,
        "tags": tags_text(one),
        "spec": spec_text(one),
        "status": "done" if done else "failed",
        "file_name": one.file_name if done else None,
        "width": 32,
        "height": 32,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "started_at": BEGAN + one.position,
        "finished_at": BEGAN + one.position + 0.25,
    }
    marks = ", ".join("?" * len(row))
    insert = f"INSERT INTO jobs ({', '.join(row)}) VALUES ({marks})"  # noqa: S608  constants
    number = connection.execute(insert, tuple(row.values())).lastrowid
    attempt = "INSERT INTO attempts (job, model, state, price, billed, counts) VALUES (?, 'm', 'finished', ?, 'yes', 1)"
    connection.execute(attempt, (number, 20_000_000))


def tree(place: Path) -> dict[str, bytes]:
    """All files of a folder, with their bytes."""
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
