"""An export as a whole: what is in it, what is left out, what stays, and that a kill changes nothing of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from PIL import Image
from pyarrow import parquet

from batchflux.cli import cli
from batchflux.errors import FolderBusy, StorageError, UsageError
from batchflux.exports.export import Wish, export
from batchflux.exports.places import destination
from batchflux.exports.places.folder import Destination
from batchflux.exports.selection import Split
from batchflux.exports.similar import Look
from batchflux.failpoints import VARIABLE
from tests.exports.folders import folder, job, judged, picture, tree
from tests.exports.folders import local as photo
from tests.mirroring import mirror
from tests.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.exports.export import Exported
    from tests.stores import Served

KINDS = ("imagefolder", "webdataset", "parquet", "pairs:instructpix2pix", "pairs:musubi", "pairs:ai-toolkit")


def exported(out: Path, kind: str = "parquet", **more: Any) -> Exported:
    return export(out, out.parent / "dest", Wish(kind=kind, **more))


def rows(place: Path) -> list[dict[str, Any]]:
    files = sorted((place / "data").glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folder(tmp_path / "out", (job(number) for number in range(30)))


def pairs(tmp_path: Path, jobs: int = 6) -> Path:
    """An output folder whose pictures were made from local photos, one or two each."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture(ord(name), "png"))
    photos = [photo(tmp_path, "a.png"), photo(tmp_path, "b.png")]
    made = (
        job(number, images=tuple(photos[: 1 + number % 2]), file_name=f"images/CUP-{number}/marble.jpg")
        for number in range(jobs)
    )
    return folder(tmp_path / "out", made)


def command(out: Path, dest: Path, kind: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "batchflux", "export", str(out), str(dest), "--format", kind, *options]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_text_stays_text_and_pictures_are_as_they_came(out: Path) -> None:
    done = exported(out, split=Split.of("train=0.7,test=0.3", "prompt"))
    found = rows(out.parent / "dest")
    assert (done.pictures, sum(done.splits.values())) == (30, 30)
    assert {row["tags.sku"] for row in found} == {f"{number:05}" for number in range(30)}
    for row in found:
        assert row["image"]["bytes"] == (out / "images" / f"{row['id']}.jpg").read_bytes()
    features = json.loads(parquet.read_schema(next((out.parent / "dest/data").glob("*"))).metadata[b"huggingface"])
    assert features["info"]["features"]["image"] == {"_type": "Image"}
    prompts = {
        split: set(parquet.read_table(next((out.parent / "dest/data").glob(f"{split}-*"))).column("prompt").to_pylist())
        for split in ("train", "test")
    }
    assert not prompts["train"] & prompts["test"]


def test_samples_have_the_same_members_and_no_nulls(tmp_path: Path) -> None:
    """Although one is a PNG, and only the seventh has a seed."""
    made = [
        job(
            number,
            variant=number,
            seed=7 if number == 6 else None,
            file_name=f"images/mug.v{number}.{'png' if number == 2 else 'jpg'}",
        )
        for number in range(10)
    ]
    exported(folder(tmp_path / "out", made), "webdataset")
    with tarfile.open(tmp_path / "dest/00000.tar") as tar:
        members = tar.getmembers()
        texts = [tar.extractfile(member) for member in members if member.name.endswith(".json")]
        told = [json.load(text) for text in texts if text is not None]
    assert [member.name for member in members[:3]] == ["000000000.jpg", "000000000.txt", "000000000.json"]
    assert {member.name.partition(".")[2] for member in members} == {"jpg", "txt", "json"}
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}
    assert len({tuple((name, type(value)) for name, value in row.items()) for row in told}) == 1
    assert [row["seed"] for row in told] == ["", "", "", "", "", "", "7", "", "", ""]
    stats = json.loads((tmp_path / "dest/00000_stats.json").read_bytes())
    assert (stats["count"], stats["successes"]) == (10, 10)
    assert parquet.read_table(tmp_path / "dest/00000.parquet").column("key").to_pylist() == [row["key"] for row in told]


def test_only_what_is_asked_for(out: Path) -> None:
    judged(out, {"j1": "accept", "j2": "reject", "j13": "accept"})
    assert exported(out, accepted=True).pictures == 2
    assert exported(out, accepted=True, only="j1?").pictures == 1
    assert exported(out, where=("seed>=20", "tags.sku!=00021")).pictures == 9
    assert [row["id"] for row in rows(out.parent / "dest")][:3] == ["j20", "j22", "j23"]
    with pytest.raises(UsageError, match=r"No picture of .*out can be exported: none is done and as was asked for"):
        exported(out, only="cup")


def test_failed_jobs_and_pictures_that_are_gone_are_not_in_it(out: Path) -> None:
    folder(out, [job(99)], done=False)
    (out / "images/j3.jpg").unlink()
    (out / "images/j4.jpg").write_bytes(b"retouched")
    done = exported(out, "imagefolder")
    assert done.pictures == 28
    assert done.left_out == {
        "j3": "its picture is not there",
        "j4": "its picture is not the one that is on record",
    }


def test_a_damaged_picture_of_the_right_size_stops_it(out: Path) -> None:
    path = out / "images/j5.jpg"
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    with pytest.raises(StorageError, match=r"j5\.jpg is not the picture that is on record.*put that back, or take"):
        exported(out, "imagefolder")
    path.unlink()
    assert exported(out, "imagefolder").pictures == 29


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_output_folder_changes(kind: str, tmp_path: Path) -> None:
    out = pairs(tmp_path)
    before = tree(out)
    assert exported(out, kind).pictures == 6
    assert tree(out) == before


def test_copies_are_left_out(tmp_path: Path) -> None:
    """Scaled and encoded anew it is the same picture; in another colour it is another."""
    out = folder(tmp_path / "out", (job(number) for number in range(20)), side=96)
    with Image.open(out / "images/j2.jpg") as first:
        grey, dark = first.getchannel(0), first.getchannel(0).point(lambda value: value // 3)
        looks = {"j20": first.resize((64, 64)), "j21": Image.merge("RGB", (grey, dark, dark))}
        for number, (name, look) in enumerate(looks.items(), 20):
            stream = io.BytesIO()
            look.save(stream, "jpeg", quality=60)
            folder(out, [job(number)])
            _replace(out, name, stream.getvalue())
    done = exported(out, dedup=True)
    assert done.copies == {"j20": "j2"}
    assert done.pictures == 21
    assert Look.of(b"no picture") is None


def _replace(out: Path, name: str, data: bytes) -> None:
    (out / f"images/{name}.jpg").write_bytes(data)
    with closing(sqlite3.connect(out / "ledger.db")) as connection, connection:
        values = len(data), hashlib.sha256(data).hexdigest(), name
        connection.execute("UPDATE jobs SET bytes = ?, sha256 = ? WHERE id = ?", values)


def test_a_pair_has_what_its_picture_was_made_from(tmp_path: Path) -> None:
    out = pairs(tmp_path)
    folder(out, [job(7)])
    done = exported(out, "pairs")
    assert (done.kind, done.pictures, dict(done.unfit)) == ("pairs:instructpix2pix", 6, {"made from no reference": 1})
    found = rows(tmp_path / "dest")
    assert [row["edit_prompt"] for row in found][:2] == ["a mug, 0", "a mug, 0"]
    assert all(row["input_image"]["bytes"] == (tmp_path / "a.png").read_bytes() for row in found)
    second = [row["input_image_2"] and row["input_image_2"]["bytes"] for row in found]
    assert second == [None, (tmp_path / "b.png").read_bytes()] * 3
    assert {row["edited_image"]["path"] for row in found} == {f"CUP-{number}__marble.jpg" for number in range(6)}


def test_a_photo_that_was_changed_since_takes_its_pairs_out(tmp_path: Path) -> None:
    out = pairs(tmp_path)
    os.utime(tmp_path / "a.png")
    shutil.copyfile(tmp_path / "b.png", tmp_path / "c.png")
    shutil.move(tmp_path / "c.png", tmp_path / "b.png")  # another file of the same bytes
    assert exported(out, "pairs:musubi").pictures == 6
    (tmp_path / "b.png").write_bytes(picture(9, "png"))
    done = exported(out, "pairs:musubi")
    assert done.pictures == 3
    assert done.left_out["j1"] == "its reference a.png or b.png is not the file that was sent: put that back"
    (tmp_path / "b.png").unlink()
    assert "its reference b.png cannot be read" in exported(out, "pairs:musubi").left_out["j1"]


def test_ai_toolkit_takes_three_references(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1, "png"))
    out = folder(tmp_path / "out", [job(1, images=(photo(tmp_path, "a.png"),) * 4)])
    with pytest.raises(UsageError, match="at most 3 references a picture, and one has 4"):
        exported(out, "pairs:ai-toolkit")
    assert exported(out, "pairs:musubi").pictures == 1
    row = json.loads((tmp_path / "dest/train.jsonl").read_bytes())
    assert [name for name in row if "control" in name] == [f"control_path_{number}" for number in range(4)]


PLACES = [f"export.written:{number}" for number in (2, 4, 9)] + [f"export.placed:{number}" for number in (1, 3, 5)]


@pytest.mark.slow
@pytest.mark.timeout(300)  # seven times the program, each of which imports much
@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_midst_and_again_it_has_the_same_bytes(kind: str, tmp_path: Path) -> None:
    out, dest = pairs(tmp_path, 12), tmp_path / "dest"
    exported(out, kind)
    whole = tree(dest)
    shutil.rmtree(dest)
    killed = [command(out, dest, kind, **{VARIABLE: place}).returncode for place in PLACES]
    assert killed[0] == -signal.SIGKILL
    assert command(out, dest, kind).returncode == 0
    assert tree(dest) == whole


def test_what_is_written_to_is_held_and_looked_at(out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("words", encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine has other things in it \(thesis\.txt\)"):
        export(out, tmp_path / "mine", Wish(kind="parquet"))
    with pytest.raises(UsageError, match="is a file: choose a folder"):
        export(out, tmp_path / "mine/thesis.txt", Wish(kind="parquet"))
    for place in (out, out / "sub", tmp_path):
        with pytest.raises(UsageError, match="an export never changes what it is made from"):
            export(out, place, Wish(kind="parquet"))
    exported(out)
    with pytest.raises(UsageError, match="holds an export as parquet, and not as imagefolder"):
        exported(out, "imagefolder")
    with Destination(tmp_path / "dest", out, "parquet"), pytest.raises(FolderBusy, match="Another process exports to"):
        exported(out)
    with pytest.raises(UsageError, match=r"is no folder, and no bucket that an export can be written to: s3://"):
        destination("hf://datasets/me/mugs")


def test_pairs_have_what_was_sent_of_a_photo(tmp_path: Path) -> None:
    """Trainers turn nothing, and read neither all kinds nor all colours: a pair has what the API saw."""
    plain = Image.open(io.BytesIO(picture(1, "png"))).convert("RGB").resize((40, 30))
    turned, inks, whole = io.BytesIO(), io.BytesIO(), io.BytesIO()
    plain.save(turned, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    plain.convert("CMYK").save(inks, "TIFF")
    plain.save(whole, "PNG")
    for name, file in (("a.jpg", turned), ("b.tif", inks), ("c.png", whole)):
        (tmp_path / name).write_bytes(file.getvalue())
    photos = [photo(tmp_path, name) for name in ("a.jpg", "b.tif", "c.png")]
    out = folder(tmp_path / "out", [job(number, images=(one,)) for number, one in enumerate(photos)])
    assert exported(out, "pairs:musubi").pictures == 3
    controls = tmp_path / "dest/train/control"
    seen = {}
    for path in sorted(controls.iterdir()):
        with Image.open(path) as one:
            seen[path.name] = (one.format, one.mode, one.size, one.getexif().get(0x112, 1))
    assert seen == {
        "j0.jpg": ("JPEG", "RGB", (30, 40), 1),
        "j1.png": ("PNG", "RGB", (40, 30), 1),
        "j2.png": ("PNG", "RGB", (40, 30), 1),
    }
    assert (controls / "j2.png").read_bytes() == whole.getvalue()
    export(out, tmp_path / "shop", Wish(kind="pairs:instructpix2pix"))
    (first, *_) = rows(tmp_path / "shop")
    assert first["input_image"]["bytes"] == (controls / "j0.jpg").read_bytes()


@pytest.mark.parametrize("kind", ["pairs:musubi", "imagefolder"])
def test_what_a_user_put_or_changed_among_the_pictures_is_kept(kind: str, tmp_path: Path) -> None:
    out, dest = pairs(tmp_path, 6), tmp_path / "dest"
    exported(out, kind)
    whole = tree(dest)
    names = [name for name in sorted(whole) if name.endswith(".jpg")][:3]
    changed, again, taken = (dest / name for name in names)
    changed.write_bytes(b"retouched")
    again.write_bytes(whole[names[1]])  # saved anew as it was
    taken.rename(mine := taken.with_name("mine.jpg"))
    os.utime(mine, (1.8e9, 1.8e9))  # as it comes out of a zip
    (mine.parent / "Thumbs.db").write_bytes(b"of Windows")
    made = export(out, dest, Wish(kind=kind))
    place = f".set-aside/{mine.parent.relative_to(dest).as_posix()}"
    kept = {f"{place}/{changed.name}": b"retouched", f"{place}/mine.jpg": whole[names[2]]}
    assert tree(dest) == whole | kept
    assert made.remarks == {"moved to .set-aside, as no export wrote what was there": 2}
    assert export(out, dest, Wish(kind=kind)).remarks == {}
    changed.write_bytes(b"once more")
    exported(out, kind)
    aside = tree(dest / place)
    assert (aside[changed.name], b"once more" in aside.values()) == (b"retouched", True), (
        "nothing is written over there"
    )


def test_a_card_that_was_edited_stays(out: Path) -> None:
    exported(out, only="j1*")
    card = out.parent / "dest/README.md"
    assert "11 pictures" in card.read_text(encoding="utf-8")
    exported(out)
    assert "30 pictures" in card.read_text(encoding="utf-8")
    card.write_text("mine", encoding="utf-8")
    exported(out)
    assert card.read_text(encoding="utf-8") == "mine"


def test_the_command_says_where_it_is_and_what_is_left_out(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "images/j3.jpg").unlink()
    line = ["export", str(out), str(tmp_path / "dest"), "--format", "imagefolder"]
    assert cli.main([*line, "--split", "train=0.5,test=0.5"], standalone_mode=False) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1:] == ["j3: its picture is not there"]
    assert "29 pictures, " in shown.err
    assert " train, " in shown.err
    assert cli.main([*line, "--json"], standalone_mode=False) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["splits"]) == (29, {"train": 29})
    assert told["left_out"] == [{"id": "j3", "why": "its picture is not there"}]


def test_what_is_told_as_json(tmp_path: Path) -> None:
    out = pairs(tmp_path)
    folder(out, [job(7), job(8, images=(photo(tmp_path, "a.png"),))])
    _replace(out, "j8", (out / "images/CUP-2/marble.jpg").read_bytes())
    line = ["export", str(out), str(tmp_path / "dest"), "--format", "pairs", "--dedup", "--json"]
    told = json.loads(CliRunner().invoke(cli, line).stdout)
    assert told["unfit"] == {"made from no reference": 1}
    assert told["copies"] == [{"id": "j8", "copy_of": "j2"}]
    assert (told["kind"], told["pictures"]) == ("pairs:instructpix2pix", 6)


@pytest.mark.slow
def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    folder(tmp_path / "out", (job(number) for number in range(400)))
    with Terminal(tmp_path, "export", "out", "dest", "--format", "imagefolder") as terminal:
        code, lines = terminal.end()
    assert any("picture" in line and "%" in line for line in terminal.screen.past)
    assert (code, lines[0]) == (0, "dest")
    assert lines[1].startswith("400 pictures, ")


def test_a_photo_that_changes_meanwhile_stops_it(tmp_path: Path) -> None:
    out = pairs(tmp_path)

    def steps(what: str, _number: int, /) -> Callable[[], object]:
        if what == "pictures":
            (tmp_path / "a.png").write_bytes(picture(9, "png"))
        return lambda: None

    with pytest.raises(StorageError, match="changed while it was exported: export again"):
        export(out, tmp_path / "dest", Wish(kind="pairs"), steps)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_are_in_a_bucket_alone_come_to_the_same_bytes(
    tmp_path: Path, moto: Served, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    out = pairs(tmp_path)
    exported(out, kind, dedup=True)
    whole = tree(tmp_path / "dest")
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    mirror(out, moto, sorted(str(path.relative_to(out)) for path in (out / "images").rglob("*.jpg"))[:4])
    shutil.rmtree(tmp_path / "dest")
    done = exported(out, kind, dedup=True)
    assert (done.pictures, done.left_out) == (6, {})
    assert tree(tmp_path / "dest") == whole


def test_a_picture_that_its_bucket_has_no_longer_ends_the_export(
    out: Path, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    mirror(out, moto)
    moto.store().delete("spring/out/images/j7.jpg")
    with pytest.raises(StorageError, match=r"j7\.jpg is not there, nor are its bytes at s3://bucket-.*/images/j7\.jpg"):
        exported(out)
    assert not list((out.parent / "dest/data").glob("train-*"))
