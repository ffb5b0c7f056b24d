"""A manifest's photos as plan and run meet them: looked at once, and broken ones the fault of their own jobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchflux import load_manifest, plan, run
from batchflux.errors import JobError, ManifestError
from batchflux.manifest import expand
from batchflux.manifest.identity import key_of_job
from batchflux.output.image_store import expected_of
from batchflux.photos import Photos, Settings, heic
from batchflux.providers import capabilities
from batchflux.providers.answers.echoes import Own
from tests.photos.conftest import clear, encoded, turned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.models import Job

WHOLE = {"a.jpg": encoded("JPEG"), "b.png": encoded("PNG", clear()), "up.jpg": turned("JPEG", 6)}
HEAD = "version: 1\nprovider: {params: drop, options: {latency: 0}}\noutput: {dir: out}\n"
EACH = "jobs: [{prompt: 'make {{ image.name }}', matrix: {image: {glob: 'photos/*'}}}]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, data in WHOLE.items():
        (tmp_path / "photos" / name).write_bytes(data)
    (tmp_path / "m.yaml").write_text(HEAD + EACH)
    return tmp_path


_opened: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)  # there is no taking it back


@pytest.fixture
def opened() -> Iterator[Callable[[], list[str]]]:
    """Returns which photos were opened since it was asked last."""
    global _opened  # noqa: PLW0603  what the hook sees
    _opened = []

    def asked() -> list[str]:
        assert _opened is not None
        names = [os.path.basename(path) for path in _opened]  # noqa: PTH119  a text
        _opened.clear()
        return [name for name in names if name in WHOLE]

    yield asked
    _opened = None


def test_a_photo_is_read_once(folder: Path, opened: Callable[[], list[str]]) -> None:
    """A second plan opens none; nor does a run, but for what it sends. One that changed is looked at again."""
    first = plan(load_manifest("m.yaml"))
    assert set(opened()) == set(WHOLE)
    assert first.photos == {
        "photos": 3,
        "bytes": sum(map(len, WHOLE.values())),
        "broken": 0,
        "large": 0,
        "in_buckets": 0,
        "prepared": {"upright": 1},
    }
    assert not (folder / "out").exists()
    assert plan(load_manifest("m.yaml")) == first
    assert opened() == []
    assert asyncio.run(run(load_manifest("m.yaml"))).exit_code == 0
    assert set(opened()) == set(WHOLE)  # to be sent
    copies = [path.suffix for path in (folder / "out/.cache").iterdir()]
    assert sorted(copies) == [".db", ".jpg"]
    plan(load_manifest("m.yaml"))
    assert opened() == []
    os.utime(folder / "photos/a.jpg", ns=(0, 0))
    plan(load_manifest("m.yaml"))
    assert set(opened()) == {"a.jpg"}
    for path in (folder / "out/.cache").iterdir():  # worthless: what is damaged is looked at again
        path.write_bytes(b"no database")
    assert plan(load_manifest("m.yaml")).counts["done"] == 3


def test_a_photo_that_changes_and_keeps_its_time_is_another(folder: Path) -> None:
    before = plan(load_manifest("m.yaml"))
    found = (folder / "photos/a.jpg").stat()
    data = bytearray(WHOLE["a.jpg"])
    data[-20] ^= 1
    (folder / "photos/a.jpg").write_bytes(data)
    os.utime(folder / "photos/a.jpg", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert plan(load_manifest("m.yaml")).requests[0] != before.requests[0]


def test_broken_photos_are_named_once_and_fail_their_own_jobs(folder: Path) -> None:
    half = WHOLE["a.jpg"][: len(WHOLE["a.jpg"]) // 2]
    (folder / "photos/half.jpg").write_bytes(half)
    (folder / "m.yaml").write_text(
        HEAD + "jobs:\n  - {prompt: 'make {{ n }}', images: [photos/half.jpg, photos/gone.jpg], "
        "matrix: {n: {range: [1, 3]}}}\n  - {id: fine, prompt: x, image: photos/up.jpg}\n"
    )
    planned = plan(load_manifest("m.yaml"))
    assert (planned.unreadable, planned.calls, planned.photos["broken"]) == (3, 1, 2)
    first, second = planned.unreadable_samples
    assert first.startswith("the reference photos/half.jpg is a JPEG that is cut off or damaged and does not decode: ")
    assert "(3 jobs, the first of them make-1-" in first
    assert second.startswith(f"the reference photos/gone.jpg does not exist: looked at {folder}/photos/gone.jpg")
    summary = asyncio.run(run(load_manifest("m.yaml")))
    assert (summary.exit_code, summary.failures, summary.jobs["done"]) == (1, {"reference": 3}, 1)
    # Mended, it is another photo, and so another job.
    (folder / "photos/half.jpg").write_bytes(WHOLE["a.jpg"])
    (folder / "photos/gone.jpg").write_bytes(WHOLE["a.jpg"])
    assert asyncio.run(run(load_manifest("m.yaml"))).exit_code == 0


def test_faults_of_the_manifest_leave_no_folder(folder: Path) -> None:
    (folder / "m.yaml").write_text(f"{HEAD}{EACH[:-2]}, {{prompt: x, from: t.csv, seed: '{{{{ a }}}}'}}]\n")
    (folder / "t.csv").write_text("a\nx\n")
    with pytest.raises(ManifestError):
        asyncio.run(run(load_manifest("m.yaml")))
    assert not (folder / "out").exists()


def test_heic_without_its_extra_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "photos/phone.HEIC").write_bytes(encoded("HEIF"))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        assert not heic.can_read()
        (said,) = plan(load_manifest("m.yaml")).unreadable_samples
    assert said.partition("photos/phone.HEIC ")[2] == heic.MISSING
    assert plan(load_manifest("m.yaml")).photos["prepared"] == {"upright": 1, "format": 1}


@pytest.mark.parametrize(
    ("written", "same"),
    [("{}", True), ("{orient: true}", True), ("{orient: false}", False), ("{max_side: 2048}", False),
     ("{max_bytes: 10MB}", False), ("{flatten: white}", False), ("{strip_metadata: true}", False)],
)  # fmt: skip
def test_what_is_written_under_references_counts_for_local_photos(folder: Path, written: str, same: bool) -> None:  # noqa: FBT001  a column
    text = "jobs: [{id: a, prompt: x, image: photos/a.jpg}, {id: b, prompt: x, image: 'https://x.example/a.jpg'}]\n"
    local, remote = _keys(folder, f"{HEAD}{text}")
    local_then, remote_then = _keys(folder, f"{HEAD}references: {written}\n{text}")
    assert ((local == local_then), remote == remote_then) == (same, True)


def _keys(folder: Path, text: str) -> list[str]:
    (folder / "m.yaml").write_text(text)
    return [job.key for job in _jobs()]


def _jobs() -> list[Job]:
    made = list(expand(load_manifest("m.yaml"), capabilities(), lambda fault: pytest.fail(str(fault))))
    assert [job.key for job in made] == [key_of_job(job, "simulator") for job in made]
    return made


def test_keys_are_those_that_paid_jobs_have(folder: Path) -> None:
    """Keys of photos that are turned, converted or left alone today, as they were before anything was."""
    photos = {"a.jpg": b"\xff\xd8\xff" + bytes(64), "b.png": b"\x89PNG\r\n\x1a\n" + bytes(64)}
    for name, data in photos.items():
        (folder / "photos" / name).write_bytes(data)
    text = f"{HEAD}jobs: [{{prompt: x, image: photos/a.jpg}}, {{prompt: x, images: [photos/b.png, photos/none.jpg]}}]\n"
    assert _keys(folder, text) == KEYS_OF_BEFORE


KEYS_OF_BEFORE = [
    "70954dfc9ddb805e410f5d5920068b4558f11123a0f7d37ab7f78d6b1f7ac459",
    "f29c339760bf42d0af0ef11abbd9171feb3fbcdec009677010e48996f2ef5498",
]


def test_an_answer_that_is_the_copy_is_an_echo(folder: Path) -> None:
    """Of a run later, too, which polls what another has sent."""
    (folder / "m.yaml").write_text(f"{HEAD}jobs: [{{id: up, prompt: x, image: photos/up.jpg}}]\n")
    assert asyncio.run(run(load_manifest("m.yaml"))).exit_code == 0
    (copy,) = (folder / "out/.cache").glob("*.jpg")
    manifest = load_manifest("m.yaml")
    with closing(manifest.photos(manifest.output.dir)) as photos:
        (job,) = expand(manifest, capabilities(), print).decoding(photos)
    for data in (WHOLE["up.jpg"], copy.read_bytes()):
        assert Own(job).inline(data) is None
        assert hashlib.sha256(data).hexdigest() in expected_of(job).references
    assert Own(job).inline(WHOLE["a.jpg"]) is not None


def test_a_copy_is_made_once_and_only_of_what_was_planned(folder: Path) -> None:
    manifest = load_manifest("m.yaml")
    (folder / "out").mkdir()

    async def all_at_once(photos: Photos, job: Job) -> list[Job]:
        return await asyncio.gather(*(photos.ready(replace(job, id=str(at))) for at in range(20)))

    def made(change: Callable[[Path], object]) -> list[Job]:
        with closing(manifest.photos(folder / "out")) as photos:
            jobs = list(expand(manifest, capabilities(), print).decoding(photos))
            change(folder / "photos/up.jpg")
            return asyncio.run(all_at_once(photos, next(job for job in jobs if "up" in job.prompt)))

    with pytest.raises(JobError, match="changed since the plan"):
        made(lambda path: path.write_bytes(WHOLE["a.jpg"]))
    (folder / "photos/up.jpg").write_bytes(WHOLE["up.jpg"])
    with pytest.raises(JobError, match="cannot be read: No such file"):
        made(lambda path: path.unlink())
    (folder / "photos/up.jpg").write_bytes(WHOLE["up.jpg"])
    copies = {job.images[0].copy for job in made(lambda _: None)}
    (copy,) = (folder / "out/.cache").iterdir()
    assert [one.path for one in copies if one is not None] == [str(copy)]
    copy.write_bytes(b"half a copy")  # a power cut may leave it so
    assert {job.images[0].copy for job in made(lambda _: None)} == copies
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == next(one.sha256 for one in copies if one is not None)


def test_settings_are_told_apart() -> None:
    given = Settings(max_side=2048, flatten="#ffffff")
    assert given.written == '{"flatten":"#ffffff","max_side":2048}'
    assert (Settings().written, replace(given, max_side=None, flatten=None).written) == ("", "")
