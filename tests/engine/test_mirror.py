"""When pictures are put into the bucket: on a virtual clock, with a real ledger, real files and a bucket in memory."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from batchflux.engine.mirroring import mirror as mirroring
from batchflux.engine.mirroring.bucket import MirrorBucket
from batchflux.engine.mirroring.mirror import Mirror
from batchflux.errors import StopRun, StorageError
from batchflux.ledger.books.mirrored import use_of
from batchflux.ledger.ledger import Ledger
from batchflux.ledger.tables import set_meta
from batchflux.models import Outcome, Status, Stored
from batchflux.output.stores.base import Address, Found, PassingError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from batchflux.ledger.books.mirrored import MirrorUse

TO = "s3://bucket/run"
JOB = (
    "INSERT INTO jobs (key, id, position, planned, tags, spec, status, file_name, sha256)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _insert(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    connection.execute(JOB, row)


class Shelf:
    """A bucket in memory; `fault` says of a key why it cannot be put now."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[tuple[float, str]] = []
        self.fault: Callable[[str, float], StorageError | None] = lambda _key, _now: None

    def put(self, key: str, data: bytes | Path, sha256: str, *, over: bool = False) -> bool:
        data = data if isinstance(data, bytes) else data.read_bytes()
        now = asyncio.get_running_loop().time()
        self.puts.append((now, key))
        if (fault := self.fault(key, now)) is not None:
            raise fault
        assert hashlib.sha256(data).hexdigest() == sha256
        if key in self.objects and not over:
            if self.objects[key] != data:
                raise StorageError(f"{key} is there already, with other bytes")
            return False
        self.objects[key] = data
        return True

    def fetch(self, key: str, target: BinaryIO) -> bool:
        if key in self.objects:
            target.write(self.objects[key])
        return key in self.objects

    def find(self, prefix: str) -> Iterator[Found]:
        yield from (Found(key, len(data)) for key, data in sorted(self.objects.items()) if key.startswith(prefix))

    def sign(self, key: str, seconds: int) -> str:
        return f"https://shelf/{key}?{seconds}"

    def copy(self, key: str, to: str) -> None:
        self.objects[to] = self.objects[key]

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


class Scene:
    """A folder with pictures, and a bucket; `go` mirrors them while `meanwhile` goes on, as a run does."""

    def __init__(self, folder: Path, virtual: asyncio.Runner) -> None:
        self.folder, self.virtual, self.shelf = folder, virtual, Shelf()
        (folder / "images").mkdir()
        self.events: list[str] = []
        self.faults: list[StopRun] = []
        self.seconds = 0.0
        self.ledger = Ledger(folder / "ledger.db", durable=False, threaded=False)
        self.ledger.database.now(lambda connection: set_meta(connection, "mirror", TO))
        self.made = 0

    def make(self, number: int = 1) -> list[Outcome]:
        """Let jobs be done; return how they ended."""
        made = []
        for _ in range(number):
            name, data = f"images/p{self.made}.png", b"picture %d" % self.made
            digest = hashlib.sha256(data).hexdigest()
            (self.folder / name).write_bytes(data)
            row = (digest, f"p{self.made}", self.made, name, "", "{}", "done", name, digest)
            self.ledger.database.now(partial(_insert, row=row))
            self.made += 1
            stored = Stored(file_name=name, width=1, height=1, bytes=len(data), sha256=digest)
            made.append(Outcome(status=Status.DONE, attempts=1, stored=stored, started_at=0.0, finished_at=0.0))
        return made

    def go(
        self, meanwhile: Callable[[Mirror], AsyncIterator[None]] | None = None, *, keep_local: bool = True
    ) -> Mirror:
        async def run() -> Mirror:
            bucket = MirrorBucket(self.shelf, Address.of(TO), self.folder)
            mirror = Mirror(bucket, self.ledger.database, self.event, keep_local=keep_local)
            async with mirror.beside(self.faults.append):
                if meanwhile is not None:
                    async for _ in meanwhile(mirror):
                        pass
                self.ended_at = asyncio.get_running_loop().time()
            self.seconds = asyncio.get_running_loop().time() - self.ended_at
            return mirror

        return self.virtual.run(run())

    def event(self, name: str, /, **_fields: Any) -> None:
        self.events.append(name)

    def use(self) -> MirrorUse:
        use = self.ledger.database.now(use_of)
        assert use is not None
        return use


@pytest.fixture
def scene(tmp_path: Path, virtual: asyncio.Runner) -> Iterator[Scene]:
    made = Scene(tmp_path, virtual)
    yield made
    made.ledger.close()


def away(_key: str = "", _now: float = 0.0) -> StorageError:
    return PassingError("s3://bucket is not there; wait")


def verdict(mirror: Mirror, use: MirrorUse, code: int = 0) -> tuple[str, str, int]:
    return mirror.verdict(use, "finished", "All is done.", code)


def test_pictures_are_put_as_they_are_made_and_what_was_left_too(scene: Scene) -> None:
    scene.make(5)

    async def meanwhile(mirror: Mirror) -> AsyncIterator[None]:
        for outcome in scene.make(5):
            mirror.note(outcome)
            await asyncio.sleep(1)
            assert f"run/{outcome.stored.file_name}" in scene.shelf.objects if outcome.stored else False
            yield

    mirror = scene.go(meanwhile)
    assert len(scene.shelf.puts) == len(scene.shelf.objects) == 10
    assert scene.seconds == 0
    assert verdict(mirror, scene.use()) == ("finished", "All is done.", 0)


def test_an_outage_is_waited_out_with_few_questions(scene: Scene) -> None:
    scene.shelf.fault = lambda key, now: away(key) if now < 3600 else None

    async def meanwhile(mirror: Mirror) -> AsyncIterator[None]:
        for _ in range(100):
            for outcome in scene.make():
                mirror.note(outcome)
            await asyncio.sleep(60)
            yield

    scene.go(meanwhile)
    before = [at for at, _ in scene.shelf.puts if at < 3600]
    assert len(before) < 16 + 3600 / 60 + 8, "one picture at a time asks, less and less often"
    assert len(scene.shelf.objects) == 100
    assert scene.use().left == 0
    assert scene.events == ["mirror_away", "mirror_back", "mirror_ended"]


@pytest.mark.parametrize("code", [0, 1])
def test_what_does_not_get_through_is_left_to_the_next_run_after_a_minute(scene: Scene, code: int) -> None:
    scene.make(40)
    scene.shelf.fault = away
    mirror = scene.go()
    assert 60 <= scene.seconds < 75
    reason, message, exit_code = verdict(mirror, scene.use(), code)
    assert (reason, exit_code) == ("mirror", 3)
    assert message == (
        "All is done. 40 pictures are not in s3://bucket/run yet (s3://bucket is not there; wait);"
        " run again to put them there."
    )
    assert mirror.verdict(scene.use(), "budget", "No money.", 3)[::2] == ("budget", 3)
    assert len(list((scene.folder / "images").iterdir())) == 40
    scene.shelf.fault = lambda _key, _now: None
    assert scene.go(keep_local=False).why == ""
    assert len(scene.shelf.objects) == 40
    assert list((scene.folder / "images").iterdir()) == []


def test_what_does_not_pass_by_itself_is_not_waited_for_at_the_end(scene: Scene) -> None:
    scene.make(40)
    scene.shelf.fault = lambda _key, _now: StorageError("the store is full; free space")
    mirror = scene.go()
    assert scene.seconds < 5
    assert verdict(mirror, scene.use())[::2] == ("mirror", 3)
    scene.shelf.fault = lambda _key, now: StorageError("the store is full; free space") if now < 0.5 else None
    assert scene.go().why == ""
    assert len(scene.shelf.objects) == 40


def test_as_long_as_some_get_through_the_end_waits(scene: Scene) -> None:
    scene.make(60)
    scene.shelf.fault = lambda key, now: away(key) if int(now) % 40 else None
    scene.go()
    assert len(scene.shelf.objects) == 60


def test_a_signal_leaves_the_rest(scene: Scene) -> None:
    scene.make(40)
    scene.shelf.fault = away

    async def meanwhile(mirror: Mirror) -> AsyncIterator[None]:
        await asyncio.sleep(100)
        mirror.stop()
        yield

    mirror = scene.go(meanwhile)
    assert scene.seconds == 0
    assert mirror.verdict(scene.use(), "signal", "Stopped.", 130)[::2] == ("signal", 130)


def test_one_picture_that_cannot_be_put_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.shelf.fault = lambda key, _now: StorageError("no such key can be; rename it") if "p3." in key else None

    async def meanwhile(mirror: Mirror) -> AsyncIterator[None]:
        for _ in range(20):
            for outcome in scene.make():
                mirror.note(outcome)
            await asyncio.sleep(30)
            yield

    mirror = scene.go(meanwhile, keep_local=False)
    assert len(scene.shelf.objects) == 19
    assert [path.name for path in (scene.folder / "images").iterdir()] == ["p3.png"]
    reason, message, code = verdict(mirror, scene.use())
    assert (reason, code) == ("finished", 1)
    assert "1 picture cannot be put into s3://bucket/run: no such key can be" in message


def test_more_than_can_be_remembered_is_read_from_the_ledger(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "FRESH", 10)
    scene.shelf.fault = lambda key, now: away(key) if now < 100 else None

    async def meanwhile(mirror: Mirror) -> AsyncIterator[None]:
        await asyncio.sleep(1)
        for outcome in scene.make(200):
            mirror.note(outcome)
        await asyncio.sleep(200)
        yield

    scene.go(meanwhile)
    assert len(scene.shelf.objects) == 200
    put = [key for at, key in scene.shelf.puts if at > 100]
    assert len(put) == len(set(put)), "a picture is put once"


def test_a_ledger_that_cannot_be_written_ends_the_run(scene: Scene) -> None:
    scene.make(3)

    def gone() -> None:
        raise StorageError("the folder is gone")

    async def meanwhile(_mirror: Mirror) -> AsyncIterator[None]:
        scene.ledger.database.check = gone
        await asyncio.sleep(5)
        yield

    with pytest.raises(StorageError, match="the folder is gone"):
        scene.go(meanwhile)
    assert "the folder is gone" in str(scene.faults[0])
    scene.ledger.database.check = lambda: None


def test_a_picture_that_is_nowhere_is_nobody_s_fault_here(scene: Scene) -> None:
    scene.make(2)
    (scene.folder / "images/p0.png").unlink()
    mirror = scene.go()
    assert verdict(mirror, scene.use())[2] == 0
    assert list(scene.shelf.objects) == ["run/images/p1.png"]


def test_a_file_goes_only_while_the_bucket_has_it(scene: Scene) -> None:
    """It lost one behind our back, and somebody put the file back here: that may be the last there is."""
    scene.make(3)
    data = (scene.folder / "images/p1.png").read_bytes()
    scene.go(keep_local=False)
    scene.shelf.objects = {}
    (scene.folder / "images/p1.png").write_bytes(data)
    scene.go(keep_local=False)
    assert scene.shelf.objects == {"run/images/p1.png": data}
    assert list((scene.folder / "images").iterdir()) == []
    scene.shelf.objects["run/images/p1.png"] = b"somebody else's"
    (scene.folder / "images/p1.png").write_bytes(data)
    mirror = scene.go(keep_local=False)
    assert (scene.folder / "images/p1.png").read_bytes() == data
    assert "images/p1.png is another object" in verdict(mirror, scene.use())[1]
    scene.shelf.objects = {}
    scene.shelf.fault = away
    scene.go(keep_local=False)
    assert (scene.folder / "images/p1.png").read_bytes() == data


def test_a_file_that_is_written_as_its_picture_is_put_stays(scene: Scene) -> None:
    scene.make()

    def meanwhile(_key: str, _now: float) -> None:
        (scene.folder / "images/p0.png").write_bytes(b"retouched")

    scene.shelf.fault = meanwhile
    scene.go(keep_local=False)
    assert (scene.folder / "images/p0.png").read_bytes() == b"retouched"


def test_what_a_killed_run_put_and_did_not_record_makes_way(scene: Scene) -> None:
    """The job was edited since, and has its name: the object of that name is known by its bytes."""
    scene.make(2)
    old = (scene.folder / "images/p0.png").read_bytes()
    scene.shelf.objects["run/images/p0.png"] = old
    (scene.folder / "images/p1.png").rename(scene.folder / "images/p0.png")
    new = (scene.folder / "images/p0.png").read_bytes()
    scene.ledger.database.now(lambda connection: _rename(connection, "images/p0.png", ".replaced/p0.png"))
    scene.ledger.database.now(lambda connection: _rename(connection, "images/p1.png", "images/p0.png"))
    mirror = scene.go()
    assert verdict(mirror, scene.use())[2] == 0
    aside = f"run/.replaced/{hashlib.sha256(old).hexdigest()[:32]}.png"
    assert scene.shelf.objects == {"run/images/p0.png": new, aside: old}


def _rename(connection: sqlite3.Connection, name: str, to: str) -> None:
    connection.execute("UPDATE jobs SET file_name = ? WHERE file_name = ?", (to, name))
