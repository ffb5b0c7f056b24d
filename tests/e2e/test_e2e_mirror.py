"""A folder that is mirrored in a bucket, as a user runs it: real buckets on loopback, the real program."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import StorageError
from batchflux.failpoints import VARIABLE
from batchflux.output.resources import LowWaterMark
from batchflux.testing.bank import picture_of
from tests.stores import BROKEN, CUT_EARLY, CUT_LATE, DENIED, SLOW, SLOW_DOWN, Fault, Served
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Ended, Program
    from tests.stores import Faulty

JOBS = "".join(f"  - {{id: a{number}, prompt: 'job a{number} #url', output_format: png}}\n" for number in range(4))
NAMES = {f"images/a{number}.png" for number in range(4)}
FILES = {"results.csv", "summary.json", "manifest.yaml", "README.md", "metadata.jsonl", ".batchflux"}


class Mirrored:
    """A program whose folder is mirrored below `s3://bucket/run`."""

    def __init__(self, program: Program, bank: Bank, served: Served, jobs: str = JOBS) -> None:
        self.program, self.bank, self.served = program, bank, served
        self.to = f"{served.bucket}/run"
        program.environ |= served.environ
        self.write(jobs)

    def write(self, jobs: str) -> None:
        self.program.manifest(self.bank.url, jobs)

    def run(self, *more: str, away: bool = False, **environ: str) -> Ended:
        given = [f"output.mirror={self.to}", *([f"output.keep_local={str(not away).lower()}"] if away else [])]
        return self.program.run(*(word for one in given for word in ("--set", one)), *more, **environ)

    def objects(self) -> dict[str, bytes]:
        return {key.removeprefix("run/"): data for key, data in self.served.objects().items()}

    def pictures(self) -> dict[str, bytes]:
        return {key: data for key, data in self.objects().items() if key.startswith("images/")}

    def recorded(self) -> dict[str, str]:
        with closing(sqlite3.connect(f"file:{self.program.out}/ledger.db?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT name, sha256 FROM mirrored WHERE name LIKE 'images/%'"))

    def here(self) -> set[str]:
        return {f"images/{path.name}" for path in (self.program.out / "images").iterdir()}

    def whole(self, jobs: Mapping[str, str]) -> None:
        """Every picture is in the bucket once, and on record with its bytes; `jobs` has the job of each name."""
        expected = {name: picture_of(job) for name, job in jobs.items()}
        there = self.pictures()
        assert there == expected
        assert {name: self.recorded()[name] for name in there} == {name: digest(data) for name, data in there.items()}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sweep(telling: set[str], values: set[str]) -> list[Any]:
    return [pytest.param(one, marks=[] if one in telling else [pytest.mark.slow]) for one in sorted(values)]


MADE = {name: name[7:-4] for name in NAMES}


@pytest.fixture
def mirrored(program: Program, bank: Bank, moto: Served) -> Mirrored:
    return Mirrored(program, bank, moto)


def test_pictures_and_files_follow_into_the_bucket(mirrored: Mirrored) -> None:
    ended = mirrored.run()
    assert ended.code == 0, ended.said
    assert f"mirror     {mirrored.to}: 4 pictures\n" in ended.out
    mirrored.whole(MADE)
    there = mirrored.objects()
    assert there.keys() == NAMES | FILES
    for name in FILES - {".batchflux"}:
        assert there[name] == (mirrored.program.out / name).read_bytes(), name
    assert json.loads(there["summary.json"])["mirror"] == {"to": mirrored.to, "mirrored": 4, "left": 0}
    assert mirrored.program.status()["mirror"] == {"to": mirrored.to, "mirrored": 4, "left": 0}
    assert mirrored.here() == NAMES


def test_a_picture_that_is_in_the_bucket_need_not_be_here(mirrored: Mirrored) -> None:
    for _ in range(2):
        ended = mirrored.run(away=True)
        assert ended.code == 0, ended.said
        assert mirrored.here() == set()
        assert mirrored.bank.posts.total() == 4
    mirrored.whole(MADE)
    without = mirrored.program.run()  # the bucket is not named any more, and has them all the same
    assert without.code == 0, without.said
    assert mirrored.bank.posts.total() == 4


def test_what_was_made_before_is_mirrored_later(mirrored: Mirrored) -> None:
    assert mirrored.program.run().code == 0
    planned = mirrored.program("plan", "m.yaml", "--set", f"output.mirror={mirrored.to}")
    assert f"  mirror    {mirrored.to}: 0 are there, 4 of those that are done are put there\n" in planned.out
    assert mirrored.objects() == {}, "plan puts nothing"
    ended = mirrored.run()
    assert ended.code == 0, ended.said
    mirrored.whole(MADE)
    assert mirrored.bank.posts.total() == 4


def test_pictures_come_back_where_they_are_wanted_here_again(mirrored: Mirrored) -> None:
    assert mirrored.run(away=True).code == 0
    assert mirrored.here() == set()
    ended = mirrored.run()
    assert ended.code == 0, ended.said
    assert {name: (mirrored.program.out / name).read_bytes() for name in NAMES} == {
        name: picture_of(job) for name, job in MADE.items()
    }
    assert mirrored.bank.posts.total() == 4


def test_another_bucket_gets_all_that_is_here_and_nothing_is_left_behind(mirrored: Mirrored) -> None:
    assert mirrored.run(away=True).code == 0
    before = mirrored.to
    mirrored.to = f"{mirrored.served.bucket}/other"
    refused = mirrored.run()
    assert refused.code == 2
    assert f"4 pictures are in {before} alone" in refused.err
    mirrored.to = before
    assert mirrored.run().code == 0
    mirrored.to = f"{mirrored.served.bucket}/other"
    ended = mirrored.run()
    assert ended.code == 0, ended.said
    assert {key.removeprefix("other/") for key in mirrored.served.objects()} >= NAMES


@pytest.mark.parametrize("away", [False, True])
def test_an_edited_job_makes_way_and_comes_back(mirrored: Mirrored, *, away: bool) -> None:
    """The older picture lies in .replaced/ of the bucket; when the edit is undone it costs nothing."""
    assert mirrored.run(away=away).code == 0
    mirrored.write(JOBS.replace("job a0", "job b0"))
    ended = mirrored.run(away=away)
    assert ended.code == 0, ended.said
    mirrored.whole(MADE | {"images/a0.png": "b0"})
    old = picture_of("a0")
    assert mirrored.objects()[f".replaced/{digest(old)[:32]}.png"] == old
    mirrored.write(JOBS)
    ended = mirrored.run(away=away)
    assert ended.code == 0, ended.said
    mirrored.whole(MADE)
    assert mirrored.bank.posts.total() == 5
    assert mirrored.here() == (set() if away else NAMES)


def test_names_that_are_swapped_are_swapped_in_the_bucket(mirrored: Mirrored) -> None:
    assert mirrored.run(away=True).code == 0
    swapped = JOBS.replace("id: a0", "id: x").replace("id: a1", "id: a0").replace("id: x", "id: a1")
    mirrored.write(swapped)
    ended = mirrored.run(away=True)
    assert ended.code == 0, ended.said
    mirrored.whole(MADE | {"images/a0.png": "a1", "images/a1.png": "a0"})
    assert mirrored.bank.posts.total() == 4


def test_unlisted_pictures_stay_in_the_mirror_and_come_back(mirrored: Mirrored) -> None:
    assert mirrored.run(away=True).code == 0
    mirrored.write(JOBS.partition("  - {id: a3")[0])
    assert mirrored.run(away=True).code == 0
    pruned = mirrored.program("prune", str(mirrored.program.out), "--yes")
    assert (pruned.code, pruned.out) == (0, "")
    assert "1 more picture of such jobs in the mirror alone" in pruned.err
    mirrored.write(JOBS)
    ended = mirrored.run(away=True)
    assert ended.code == 0, ended.said
    mirrored.whole(MADE)
    assert mirrored.bank.posts.total() == 4


def test_somebody_elses_object_stays(mirrored: Mirrored) -> None:
    store = mirrored.served.store()
    store.put("run/images/a2.png", b"theirs", digest(b"theirs"))
    ended = mirrored.run(away=True)
    assert ended.code == 1, ended.said
    assert f"{mirrored.to}/images/a2.png is another object" in ended.out
    assert mirrored.objects()["images/a2.png"] == b"theirs"
    assert mirrored.here() == {"images/a2.png"}
    store.delete("run/images/a2.png")
    assert mirrored.run(away=True).code == 0
    mirrored.whole(MADE)
    assert mirrored.bank.posts.total() == 4


def test_a_picture_that_was_changed_here_is_not_put(mirrored: Mirrored) -> None:
    assert mirrored.program.run().code == 0
    (mirrored.program.out / "images/a1.png").write_bytes(b"retouched")
    ended = mirrored.run(away=True)
    assert ended.code == 1, ended.said
    assert "images/a1.png was changed here since it was made" in ended.out
    assert mirrored.here() == {"images/a1.png"}


def test_a_bucket_that_cannot_be_used_is_found_out_before_anything_is_spent(mirrored: Mirrored) -> None:
    mirrored.to = "s3://no-such-bucket-of-ours/run"
    ended = mirrored.run()
    assert ended.code == 2, ended.said
    assert "output.mirror cannot be used, and nothing was spent" in ended.err
    assert mirrored.bank.posts.total() == 0


def test_the_mirror_of_another_folder_is_not_written_to(mirrored: Mirrored) -> None:
    assert mirrored.run().code == 0
    mirrored.program.out = mirrored.program.folder / "second"
    mirrored.write(JOBS)
    ended = mirrored.run()
    assert ended.code == 2
    assert f"{mirrored.to} is the mirror of another output folder" in ended.err
    assert mirrored.bank.posts.total() == 4


def test_files_that_stay_need_a_mirror(mirrored: Mirrored) -> None:
    ended = mirrored.program.run("--set", "output.keep_local=false")
    assert ended.code == 2
    assert "output.keep_local: false needs a bucket that has the pictures then; add output.mirror" in ended.err


def test_a_bucket_that_goes_away_holds_nothing_up(
    program: Program, bank: Bank, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = Mirrored(program, bank, faulty)
    assert mirrored.run("--limit", "1", away=True).code == 0
    monkeypatch.setattr("batchflux.engine.mirroring.mirror.PATIENCE", 0.0)
    monkeypatch.setattr("batchflux.output.stores.cloud.TRIES", 1)
    faulty.front.always = SLOW_DOWN
    ended = mirrored.run(away=True)
    assert ended.code == 3, ended.said
    assert program.summary()["reason"] == "mirror"
    assert "All 4 jobs are done. 3 pictures are not in " in ended.out
    assert "run again to put them there" in ended.out
    assert bank.posts.total() == 4
    assert len(mirrored.here()) == 3
    faulty.front.always = None
    ended = mirrored.run(away=True)
    assert ended.code == 0, ended.said
    mirrored.whole(MADE)
    assert mirrored.here() == set()


@pytest.mark.parametrize(
    "point", sweep({"mirror.put"}, {"mirror.put", "mirror.recorded", "mirror.removed", "mirror.followed"})
)
def test_a_kill_at_every_step(mirrored: Mirrored, point: str) -> None:
    """Each picture is in the bucket once, on record, and no more here; what is paid for is paid once."""
    made = {f"images/b{number}.png": f"b{number}" for number in range(24)}
    mirrored.write(
        "".join(f"  - {{id: {job}, prompt: 'job {job} #url', output_format: png}}\n" for job in made.values())
    )
    for times in (1, 2, 5):
        ended = mirrored.run(away=True, **{VARIABLE: f"{point}:{times}"})
        assert ended.code == -9 or times > 1, ended.said
    ended = mirrored.run(away=True)
    assert ended.code == 0, ended.said
    mirrored.whole(made)
    assert mirrored.here() == set()
    assert mirrored.objects().keys() == made.keys() | FILES
    assert not mirrored.bank.again


@pytest.mark.parametrize(
    "point",
    sweep({"mirror.set_aside"}, {"mirror.set_aside", "mirror.put", "mirror.recorded", "moves.recorded"}),
)
def test_a_kill_as_pictures_make_way(mirrored: Mirrored, point: str) -> None:
    assert mirrored.run(away=True).code == 0
    swapped = JOBS.replace("id: a0", "id: x").replace("id: a1", "id: a0").replace("id: x", "id: a1")
    mirrored.write(swapped.replace("job a2", "job b2"))
    ended = mirrored.run(away=True, **{VARIABLE: point})
    assert ended.code == -9, ended.said
    ended = mirrored.run(away=True)
    assert ended.code == 0, ended.said
    mirrored.whole(MADE | {"images/a0.png": "a1", "images/a1.png": "a0", "images/a2.png": "b2"})
    assert picture_of("a2") in mirrored.objects().values(), "what was paid for is there still"
    assert mirrored.bank.posts["a2"] == 1
    assert not mirrored.bank.again


FAULTS = (SLOW_DOWN, BROKEN, CUT_EARLY, CUT_LATE)


@pytest.mark.parametrize(
    ("number", "more"),
    [
        pytest.param(150, 0, marks=pytest.mark.slow),
        pytest.param(10_000, 32 << 10, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_many_pictures_with_faults(program: Program, bank: Bank, faulty: Faulty, number: int, more: int) -> None:
    """Nothing is lost, nothing is there twice, memory stays flat, where one request in ten fails, in every way."""
    mirrored = Mirrored(program, bank, faulty)
    made = {f"images/n{n}.png": f"n{n}" for n in range(number)}
    mirrored.write(
        "".join(f"  - {{id: {job}, prompt: 'job {job} #url', output_format: png}}\n" for job in made.values())
    )
    chance = random.Random(number)
    faulty.front.faults.extend(chance.choice(FAULTS) if chance.random() < 0.1 else Fault() for _ in range(2 * number))
    arguments = ("--set", f"output.mirror={mirrored.to}", "--set", "output.keep_local=false")
    process = program.start("run", "m.yaml", *arguments, "--set", "limits.concurrency=32")
    resident = list[tuple[int, int]]()
    while process.poll() is None:
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            resident.append((bank.posts.total(), int(status.partition("VmRSS:")[2].split()[0])))
        time.sleep(0.2)
    ended = program.finish(process)
    assert ended.code == 0, ended.said
    mirrored.whole(made)
    assert mirrored.here() == set()
    assert bank.posts.total() == number
    if more:
        first = max(size for posts, size in resident if posts < number / 2)
        assert max(size for _, size in resident) < first + more, "the second half takes no more memory than the first"


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_a_bucket(program: Program, bank: Bank, faulty: Faulty) -> None:
    """All jobs are done, and the run waits for its bucket: what is not there is left to the next run."""
    mirrored = Mirrored(program, bank, faulty)
    assert mirrored.run("--limit", "1").code == 0
    faulty.front.always = SLOW_DOWN
    process = program.start("run", "m.yaml", "--set", f"output.mirror={mirrored.to}")
    wait_until(lambda: len(program.rows(cut=True)) == 4 and program.noted("mirror_away") > 0)
    time.sleep(1)
    assert process.poll() is None, "it goes on trying"
    process.send_signal(signal.SIGINT)
    ended = program.finish(process)
    assert ended.code == 130, ended.said
    assert program.summary()["mirror"]["left"] == 3
    faulty.front.always = None
    assert mirrored.run().code == 0
    mirrored.whole(MADE)


def test_files_of_others_that_would_be_written_over_stay(mirrored: Mirrored) -> None:
    store = mirrored.served.store()
    store.put("run/README.md", b"of the shop", digest(b"of the shop"))
    ended = mirrored.run()
    assert ended.code == 2, ended.said
    assert f"{mirrored.to} has a README.md that is not of this folder" in ended.err
    assert mirrored.objects() == {"README.md": b"of the shop"}
    assert mirrored.bank.posts.total() == 0
    store.delete("run/README.md")
    assert mirrored.run().code == 0
    store.delete("run/.batchflux")
    assert mirrored.run().code == 0, "they are its own"


def test_a_full_disk_waits_for_the_mirror_that_makes_room(
    program: Program, bank: Bank, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = Mirrored(program, bank, faulty)
    made = {f"images/n{number}.png": f"n{number}" for number in range(12)}
    jobs = "".join(f"  - {{id: {job}, prompt: 'job {job} #url', output_format: png}}\n" for job in made.values())
    mirrored.write(jobs)

    def check(_mark: LowWaterMark, in_flight: int) -> StorageError | None:
        return StorageError("almost full") if len(mirrored.here()) + in_flight > 6 else None

    monkeypatch.setattr(LowWaterMark, "check", check)
    faulty.front.faults.extend([Fault(), *[SLOW] * 12])
    ended = mirrored.run(away=True)
    assert ended.code == 0, ended.said
    mirrored.whole(made)
    mirrored.write(jobs + "".join(f"  - {{id: {job}, prompt: 'job {job} #url'}}\n" for job in range(100, 150)))
    monkeypatch.setattr("batchflux.engine.mirroring.mirror.PATIENCE", 0.0)
    faulty.front.always = DENIED
    bank.held = lambda: bank.posts.total() - len(made) - len(mirrored.here()) > 12  # no more is ordered than comes
    ended = mirrored.run(away=True)
    assert ended.code == 3, ended.said
    assert program.summary()["reason"] == "storage", "a bucket that is away makes no room"
    assert 6 <= len(mirrored.here()) < 50


@pytest.mark.parametrize("away", [True, False])
def test_a_kill_as_files_follow_and_another_edit(mirrored: Mirrored, *, away: bool) -> None:
    """A job that is listed no more has the name that another's picture was to get: it makes way all the same."""

    def run(**environ: str) -> Ended:
        return mirrored.run(away=True, **environ) if away else mirrored.program.run(**environ)

    assert run().code == 0
    mirrored.write(JOBS.replace("id: a0", "id: x").replace("id: a1", "id: a0").replace("id: x", "id: a1"))
    assert run(**{VARIABLE: "moves.taken_up"}).code == -9
    mirrored.write("  - {id: a0, prompt: 'job a1 #url', output_format: png}\n")
    ended = run()
    assert ended.code == 0, ended.said
    out = mirrored.program.out
    with closing(sqlite3.connect(f"file:{out}/ledger.db?mode=ro", uri=True)) as connection:
        names = [name for (name,) in connection.execute("SELECT file_name FROM jobs")]
    assert len(names) == len(set(names))
    mirrored.write(JOBS)
    ended = run()
    assert ended.code == 0, ended.said
    assert mirrored.bank.posts.total() == 4
    if away:
        mirrored.whole(MADE)
    else:
        assert {name: (out / name).read_bytes() for name in NAMES} == {
            name: picture_of(job) for name, job in MADE.items()
        }
