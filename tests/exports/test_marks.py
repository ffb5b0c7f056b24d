"""Exports with marks: what is written has them, and rows, sizes and repeats go by what is written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from pyarrow import parquet

from batchflux.cli import cli
from batchflux.errors import UsageError
from batchflux.exports.base import Export, Format, Loading
from batchflux.exports.export import Exported, Wish, export
from batchflux.exports.marks import Marking, about_of, marks_of
from batchflux.failpoints import VARIABLE
from batchflux.ledger.connection import reading
from batchflux.ledger.tables import jobs_by_number
from batchflux.models import Reference
from batchflux.provenance import carries, marked
from tests.exports.folders import folder, job, judged, put, tree
from tests.provenance.pictures import about, picture, signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchflux.exports.base import Sample

KINDS = ("imagefolder", "webdataset", "parquet")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Twelve pictures, two of them signed by their provider, one a PNG."""
    kinds = {3: "png"}
    jobs = (job(one, file_name=f"images/j{one}.{kinds.get(one, 'jpg')}") for one in range(12))
    made = folder(tmp_path / "out", jobs, side=240)
    for number in (5, 8):
        put(made, f"images/j{number}.jpg", signed("jpeg"))
    return made


def exported(out: Path, kind: str, marks: str | None = "iptc,parameters", **more: Any) -> Exported:
    return export(out, out.parent / "dest", Wish(kind=kind, marks=marks_of(marks), **more))


def written(dest: Path, kind: str) -> list[tuple[bytes, int, str]]:
    """The bytes of each picture, with the size and digest that its row says, in order."""
    if kind == "imagefolder":
        rows = parquet.read_table(dest / "train/metadata.parquet").to_pylist()
        return [((dest / "train" / row["file_name"]).read_bytes(), row["bytes"], row["sha256"]) for row in rows]
    if kind == "parquet":
        rows = parquet.read_table(next((dest / "data").glob("*"))).to_pylist()
        return [(row["image"]["bytes"], row["bytes"], row["sha256"]) for row in rows]
    with tarfile.open(dest / "00000.tar") as tar:
        files = [stream.read() for member in tar if (stream := tar.extractfile(member)) is not None]
    rows = [json.loads(data) for data in files[2::3]]
    return [(data, row["bytes"], row["sha256"]) for data, row in zip(files[::3], rows, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_marked_and_rows_are_of_it(kind: str, out: Path) -> None:
    before = tree(out)
    done = exported(out, kind)
    found = written(out.parent / "dest", kind)
    assert tree(out) == before
    assert done.remarks == {
        "marked: iptc, parameters": 10,
        "left as they are: already signed by the provider (C2PA)": 2,
    }
    assert done.bytes == sum(len(data) for data, *_ in found)
    for number, (data, size, digest) in enumerate(found):
        assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
        assert carries(data) == ({"c2pa"} if number in {5, 8} else {"iptc", "parameters"})
        received = (out / f"images/j{number}.{'png' if number == 3 else 'jpg'}").read_bytes()
        with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(received)) as other:
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_other_marks_are_other_bytes_and_the_same_are_not_written_again(kind: str, out: Path) -> None:
    dest = out.parent / "dest"
    states = []
    for marks, producer in ((None, None), ("iptc,tc260", "A shop"), ("iptc,tc260", "B shop"), ("none", None)):
        exported(out, kind, marks, producer=producer)
        states.append(tree(dest))
        places = {path: path.stat().st_ino for path in dest.rglob("*")}
        exported(out, kind, marks, producer=producer)
        assert {path: path.stat().st_ino for path in dest.rglob("*")} == places
        carried = {mark for data, *_ in written(dest, kind) for mark in carries(data)}
        assert carried == {"c2pa", *([] if producer is None else ["iptc", "tc260"])}
    assert states[0] == states[3]
    assert b"A shop" in b"".join(states[1].values())
    assert b"B shop" in b"".join(states[2].values())
    for data, *_ in written(dest, kind):
        assert b"shop" not in data


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_marks_change_it_comes_to_the_same(kind: str, out: Path, tmp_path: Path) -> None:
    exported(out, kind)
    whole = tree(tmp_path / "dest")
    exported(out, kind, "tc260")
    line = [sys.executable, "-m", "batchflux", "export", str(out), str(tmp_path / "dest"), "--format", kind]
    line += ["--mark", "iptc,parameters"]
    for place in ("export.written:1", "export.placed:1"):
        environment = os.environ | {VARIABLE: place}
        assert subprocess.run(line, env=environment, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
    assert tree(tmp_path / "dest") == whole


def test_what_marks_say_of_a_job(tmp_path: Path) -> None:
    link = "https://cdn.example/mug.png?X-Amz-Signature=0123456789abcdef0123456789abcdef"
    edit = job(
        0,
        prompt=f"put {link} on oak",
        images=(Reference(source="https://cdn.example/mug.png", url="https://cdn.example/mug.png"),),
        negative_prompt="blur",
        options=(("num_inference_steps", 28),),
    )
    with reading(folder(tmp_path / "out", [edit, job(1)]) / "ledger.db") as connection:
        first, second = (about_of(known) for known in jobs_by_number(connection, [1, 2]))
        (known,) = jobs_by_number(connection, [2])
        named = about_of(known._replace(seed_used=99), "me")
    assert (named.seed, named.producer) == (99, "me")
    assert (first.edit, first.prompt, first.negative_prompt) == (True, "put https://cdn.example/mug.png on oak", "blur")
    assert (first.steps, first.seed, first.width, first.height, first.number) == (28, 0, 32, 32, edit.key)
    assert (second.edit, second.steps, second.producer, second.model) == (False, None, "p", "m")


def test_a_format_that_draws_pictures_puts_marks_in_itself(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawing:
        loading = Loading(use="Drawn anew.")

        def __init__(self, told: Export) -> None:
            self.made: list[tuple[bytes, str]] = []
            drawings.append(self)

        def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
            stream = io.BytesIO()
            received = image()
            with Image.open(io.BytesIO(received)) as opened:
                opened.resize((16, 16)).save(stream, "JPEG")
            self.made.append((sample.mark(stream.getvalue(), received).data, sample.marks))

        def close(self) -> None: ...

    drawings: list[Drawing] = []
    form = Format(make=Drawing, marks=("iptc",), draws=True)
    monkeypatch.setattr("batchflux.exports.export.formats", lambda: {"drawn": form})
    for marks, carried in ((None, {"iptc"}), ("none", set()), ("iptc,tc260", {"iptc", "tc260"})):
        exported(out, "drawn", marks)
        assert [carries(data) for data, _ in drawings[-1].made] == [carried] * 12
    assert len({of for drawing in drawings for _, of in drawing.made}) == 3 * 12


def test_what_goes_to_a_shop_says_by_itself_how_it_was_made(out: Path, tmp_path: Path) -> None:
    judged(out, {f"j{number}": "accept" for number in range(12)})
    dest, most = tmp_path / "dest", max(path.stat().st_size for path in (out / "images").glob("*.jpg")) + 200
    signed_already = "left as they are: already signed by the provider (C2PA)"
    for marks, carried in (
        (None, {"iptc"}),
        ("iptc,parameters", {"iptc", "parameters"}),
        ("none", set()),
        (None, {"iptc"}),
    ):
        for _ in range(2):  # the second time nothing is made
            places = {path: path.stat().st_ino for path in dest.rglob("*.jpg")}
            remarks = exported(out, "shop", marks, options={"sheet": ["csv"], "max_bytes": str(most)}).remarks
            left = {} if marks == "none" else {f"marked: {', '.join(sorted(carried))}": 10, signed_already: 2}
            assert {name: count for name, count in remarks.items() if "Amazon" not in name} == left
        assert {path: path.stat().st_ino for path in dest.rglob("*.jpg")} == places
        files = sorted((dest / "images").iterdir())
        assert len(files) == 12
        assert {carries(path.read_bytes()) for path in files} == {frozenset(carried), frozenset({"c2pa"})}
        assert all(path.stat().st_size <= most for path in files)
        rows = list(csv.DictReader((dest / "products.csv").read_text("utf-8-sig").splitlines()))
        assert {row["file"]: int(row["bytes"]) for row in rows} == {path.name: path.stat().st_size for path in files}


def test_what_a_provider_said_is_kept_where_a_picture_is_drawn_anew(tmp_path: Path) -> None:
    out = folder(tmp_path / "out", (job(one, file_name=f"images/j{one}.png") for one in range(3)))
    label = marked(picture("png"), ("iptc", "tc260"), about(edit=True, producer="the provider", model="theirs"))
    put(out, "images/j0.png", label.data)
    put(out, "images/j1.png", signed("png"))
    judged(out, {f"j{number}": "accept" for number in range(3)})
    lost = "drawn anew, without the signature (C2PA) that they had"
    for marks, remarks in (("none", {lost: 1}), (None, {"marked: iptc": 2, f"marked: iptc; {lost}": 1})):
        done = exported(out, "shop", marks, options={"sheet": ["csv"]})
        assert {name: count for name, count in done.remarks.items() if "Amazon" not in name} == remarks
        made = [path.read_bytes() for path in sorted((tmp_path / "dest/images").iterdir())]
        assert all(data.startswith(b"\xff\xd8") for data in made)
        own = {"iptc"} if marks is None else set()
        assert [carries(data) for data in made] == [{"iptc", "tc260"}, own, own]
        assert b"compositeWithTrainedAlgorithmicMedia" in made[0]
        assert b'"ContentProducer":"the provider"' in made[0]
        assert b">theirs<" in made[0]


def test_what_cannot_be_asked_for_is_said(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert marks_of("tc260, iptc") == ("iptc", "tc260")
    with pytest.raises(UsageError, match=r'no mark "exif"; there are iptc, parameters, tc260, and none'):
        marks_of("iptc,exif")
    with pytest.raises(UsageError, match="--producer is what the mark tc260 says"):
        Marking(("iptc",), "me")
    line = ["export", str(out), str(tmp_path / "dest"), "--format", "imagefolder", "--mark"]
    assert cli.main([*line, "iptc"], standalone_mode=False) == 0
    shown = capsys.readouterr().err
    assert "10 pictures marked: iptc." in shown
    assert "2 pictures left as they are: already signed by the provider (C2PA)." in shown
    assert cli.main([*line, "tc260", "--json"], standalone_mode=False) == 0
    assert json.loads(capsys.readouterr().out)["remarks"]["marked: tc260"] == 10
