"""Thumbnails: made once, made again when the picture changed, and never in the way."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchflux.errors import StorageError
from batchflux.report.thumbs import REFERENCE_SIDE, THUMB_SIDE, PictureUrls, make_thumbs, shrink, thumb_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.ledger.tables import Known


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (640, 400), **options: Any) -> bytes:
    file = io.BytesIO()
    colour: Any = {"RGB": (200, 30, 30), "RGBA": (200, 30, 30, 0), "L": 90, "P": 3, "CMYK": (1, 2, 3, 4)}[mode]
    Image.new(mode, size, colour).save(file, kind, **options)
    return file.getvalue()


def stored(folder: Path, known: Callable[..., Known], number: int, data: bytes, **more: Any) -> Known:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / f"images/{number}.png").write_bytes(data)
    return known(number, file_name=f"images/{number}.png", sha256=hashlib.sha256(data).hexdigest(), **more)


def make(folder: Path, jobs: list[Known], base: Path | None = None) -> tuple[int, list[str]]:
    return make_thumbs(jobs, PictureUrls(folder, base), lambda: None)[:2]


@pytest.mark.parametrize(
    "data",
    [
        picture(),
        picture("JPEG"),
        picture("JPEG", "CMYK"),
        picture("WEBP"),
        picture("GIF", "P"),
        picture("PNG", "P"),
        picture("PNG", "L"),
    ],
)
def test_every_kind_of_picture_gets_a_small_jpeg(data: bytes, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(data)
    assert shrink(source, tmp_path / "thumbs/a.jpg", THUMB_SIDE)
    with Image.open(tmp_path / "thumbs/a.jpg") as made:
        assert (made.format, made.size, made.mode) == ("JPEG", (320, 200), "RGB")
    assert [path.name for path in (tmp_path / "thumbs").iterdir()] == ["a.jpg"]


def test_what_is_transparent_shows_paper_not_black(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(picture("PNG", "RGBA"))
    assert shrink(tmp_path / "x", tmp_path / "a.jpg", THUMB_SIDE)
    with Image.open(tmp_path / "a.jpg") as made:
        assert min(made.getpixel((50, 50))) > 230  # type: ignore[arg-type]  # an RGB pixel is a tuple


def test_a_photograph_lies_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    (tmp_path / "x").write_bytes(picture("JPEG", exif=exif.tobytes()))
    assert shrink(tmp_path / "x", tmp_path / "a.jpg", REFERENCE_SIDE)
    with Image.open(tmp_path / "a.jpg") as made:
        assert made.size == (400, 640)


@pytest.mark.parametrize(
    "data", [b"", b"<html>", picture()[:200], picture("JPEG")[:300], b"\x89PNG\r\n\x1a\n" + b"0" * 99]
)
def test_no_picture_no_thumbnail(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    assert not shrink(tmp_path / "x", tmp_path / "thumbs/a.jpg", THUMB_SIDE)
    assert not (tmp_path / "thumbs/a.jpg").exists()


def test_a_picture_of_too_many_pixels_has_none(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert not shrink(tmp_path / "bomb.png", tmp_path / "a.jpg", THUMB_SIDE)


def test_made_once_and_again_when_the_picture_changed(known: Callable[..., Known], tmp_path: Path) -> None:
    job = stored(tmp_path, known, 1, picture())
    assert make(tmp_path, [job]) == (1, [])
    before = (tmp_path / "thumbs" / thumb_name(job)).stat().st_mtime_ns
    assert make(tmp_path, [job]) == (0, [])
    assert (tmp_path / "thumbs" / thumb_name(job)).stat().st_mtime_ns == before
    changed = stored(tmp_path, known, 1, picture("JPEG"))
    assert make(tmp_path, [changed]) == (1, [])
    assert thumb_name(changed) != thumb_name(job)


def test_missing_and_damaged_pictures_do_not_stop_the_others(known: Callable[..., Known], tmp_path: Path) -> None:
    jobs = [stored(tmp_path, known, number, picture()) for number in range(4)]
    (tmp_path / "images/1.png").unlink()
    (tmp_path / "images/2.png").write_bytes(b"rubbish")
    steps: list[int] = []
    urls = PictureUrls(tmp_path, None)
    made, missing, *_ = make_thumbs([*jobs, known(9, status="failed")], urls, lambda: steps.append(1))
    assert (made, sorted(missing), len(steps)) == (2, ["job-1", "job-2"], 5)
    assert {path.name for path in (tmp_path / "thumbs").iterdir()} == {thumb_name(jobs[0]), thumb_name(jobs[3])}


def test_references_are_copied_once_for_all_jobs(known: Callable[..., Known], tmp_path: Path) -> None:
    base = tmp_path / "manifest"
    base.mkdir()
    (base / "cup.jpg").write_bytes(picture("JPEG", size=(3000, 2000)))
    (base / "text.jpg").write_text("no picture")
    spec = {"images": ["cup.jpg", "text.jpg", "missing.jpg", "https://example.org/x.jpg"]}
    jobs = [stored(tmp_path / "out", known, number, picture(), spec=spec) for number in range(3)]
    assert make(tmp_path / "out", jobs, base) == (4, [])
    (copy,) = (tmp_path / "out/thumbs/references").iterdir()
    with Image.open(copy) as made:
        assert made.size == (1600, 1067)
    assert make(tmp_path / "out", jobs, base) == (0, [])


def test_a_folder_that_takes_none_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(picture())
    with pytest.raises(StorageError, match=r"cannot take thumbnails .*then make the report again"):
        shrink(tmp_path / "x", tmp_path / f"thumbs/{'a' * 300}.jpg", THUMB_SIDE)


def test_what_a_killed_report_was_writing_is_removed_by_the_next(tmp_path: Path, known: Callable[..., Known]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    job = stored(tmp_path, known, 1, picture())
    names = [f".{'0a' * 8}-{'0b' * 6}.jpg", f".{'0c' * 12}.jpg"]
    for folder, name in zip((tmp_path / "thumbs", tmp_path / "thumbs/references"), names, strict=True):
        folder.mkdir()
        for process in (ended.pid, os.getpid(), os.getppid()):
            (folder / f"{name}.{process}.140123.tmp").write_bytes(b"half a pic")
        (folder / ".mine.tmp").touch()
    make(tmp_path, [job])
    left = {path.name for path in (tmp_path / "thumbs").rglob("*.tmp")}
    assert left == {*(f"{name}.{os.getppid()}.140123.tmp" for name in names), ".mine.tmp"}, (
        "another that lives may write"
    )
