"""Exports into a bucket, on a real server: what is there is what a folder would have, also after a kill."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import fs, parquet

from batchflux.cli import cli
from batchflux.errors import FolderBusy, StorageError, UsageError
from batchflux.exports.export import Wish, export
from batchflux.exports.formats import imagefolder as folders
from batchflux.exports.formats import parquet as files
from batchflux.exports.formats import webdataset as tars
from batchflux.exports.places import destination, opened
from batchflux.exports.places.record import WRITTEN
from batchflux.exports.selection import Split
from batchflux.failpoints import VARIABLE
from batchflux.ledger.connection import connect
from batchflux.ledger.tables import set_meta
from batchflux.manifest.kept import stores_of_folder
from batchflux.models import Reference
from tests.exports.folders import folder, job, judged, local, picture, tree
from tests.stores import ACCESS_KEY, DENIED, SECRET_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.exports.export import Exported
    from tests.stores import Faulty, Served

LEAN = ("imagefolder", "parquet")
KINDS = (
    *LEAN,
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("webdataset", "pairs:instructpix2pix", "pairs:musubi", "pairs:ai-toolkit")
    ),
)
PLACE = "sets/mugs"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Several shards and folders, though there are few pictures; what is under way lies in the test's own folder."""
    monkeypatch.setattr(files, "FILE_BYTES", 15_000)
    monkeypatch.setattr(tars, "SAMPLES", 10)
    monkeypatch.setattr(folders, "FOLDER_FILES", 10)
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spool"))


def made(tmp_path: Path, numbers: range = range(30)) -> Path:
    """An output folder whose pictures were made from local photos, one or two each."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture(ord(name), "png"))
    photos = [local(tmp_path, "a.png"), local(tmp_path, "b.png")]
    return folder(tmp_path / "out", (job(number, images=tuple(photos[: 1 + number % 2])) for number in numbers))


def exported(out: Path, served: Served, kind: str, **more: Any) -> Exported:
    (out / "manifest.yaml").write_text(f"version: 1\n{served.yaml}", encoding="utf-8")
    return export(out, destination(f"{served.bucket}/{PLACE}/"), Wish(kind=kind, **more))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


pytestmark = pytest.mark.usefixtures("keys")


def there(served: Served) -> dict[str, bytes]:
    """What is below the prefix, by name, without the record."""
    objects = {key.removeprefix(f"{PLACE}/"): data for key, data in served.objects().items()}
    return {name: data for name, data in objects.items() if not name.startswith(WRITTEN)}


def record(served: Served) -> list[str]:
    return [key for key in served.objects() if WRITTEN in key]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_has_what_a_folder_has(kind: str, tmp_path: Path, moto: Served) -> None:
    out = made(tmp_path)
    split = Split.of("train=0.7,test=0.3", "prompt")
    export(out, tmp_path / "dest", Wish(kind=kind, split=split))
    done = exported(out, moto, kind, split=split)
    here, sent = tree(tmp_path / "dest"), there(moto)
    assert here.keys() == sent.keys()
    own = {"README.md", *(name for name in here if name.endswith(".jsonl"))}  # they say where files are
    assert {name: here[name] for name in here.keys() - own} == {name: sent[name] for name in here.keys() - own}
    assert done.pictures == 30
    assert record(moto) == [f"{PLACE}/{WRITTEN}/000000"]
    assert not list((tmp_path / "spool").iterdir())
    if kind == "pairs:musubi":
        assert b'"image_path": "train/images/j' in sent["train.jsonl"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_and_the_same_is_not_sent_again(kind: str, tmp_path: Path, faulty: Faulty) -> None:
    out = made(tmp_path)
    exported(out, faulty, kind)
    before = faulty.objects()
    faulty.front.seen.clear()
    exported(out, faulty, kind)
    sent = [line for line in faulty.front.seen if line.startswith("PUT")]
    assert [line for line in sent if WRITTEN not in line] == []
    assert len({*sent}) == 2  # the beginning and the end
    assert len(faulty.front.seen) < 20
    assert faulty.objects() == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_over_another_is_as_one_from_nothing(kind: str, tmp_path: Path, moto: Served) -> None:
    """Fewer pictures, in other splits, with other captions, of which some are as long: nothing of before is left."""
    out = made(tmp_path)
    exported(out, moto, kind, split=Split.of("train=0.5,test=0.5", "id"), caption="mug 1")
    exported(out, moto, kind, where=("seed<20",), caption="mug 2")
    export(out, tmp_path / "dest", Wish(kind=kind, where=("seed<20",), caption="mug 2"))
    here, sent = tree(tmp_path / "dest"), there(moto)
    own = {"README.md", "train.jsonl"}
    assert here.keys() == sent.keys()
    assert {name: here[name] for name in here.keys() - own} == {name: sent[name] for name in here.keys() - own}


def test_more_pictures_send_only_what_is_new(tmp_path: Path, faulty: Faulty) -> None:
    out = made(tmp_path)
    exported(out, faulty, "parquet")
    folder(out, (job(number, images=(local(tmp_path, "a.png"),)) for number in range(200, 230)))
    faulty.front.seen.clear()
    exported(out, faulty, "parquet")
    export(out, tmp_path / "dest", Wish(kind="parquet"))
    sent = [line for line in faulty.front.seen if line.startswith("PUT") and "/.train" in line]
    names = [name for name in there(faulty) if name.startswith("data/")]
    assert len(sent) < len(names) - 1
    assert {name: there(faulty)[name] for name in names} == {name: tree(tmp_path / "dest")[name] for name in names}


def test_a_shop_in_a_bucket_is_as_in_a_folder(tmp_path: Path, faulty: Faulty) -> None:
    out = made(tmp_path, range(12))
    judged(out, {f"j{number}": "accept" for number in range(1, 12)})
    options = {"sheet": ("csv", "shopify"), "before": True, "url": "https://img.example/{name}"}
    export(out, tmp_path / "dest", Wish(kind="shop", options=options))
    for _ in range(2):
        assert exported(out, faulty, "shop", options=options).pictures == 11
    assert there(faulty) == tree(tmp_path / "dest")
    faulty.front.seen.clear()
    exported(out, faulty, "shop", options=options)
    assert [line for line in faulty.front.seen if line.startswith("PUT") and WRITTEN not in line] == []
    exported(out, faulty, "shop", options=options | {"max_side": 24})
    export(out, tmp_path / "dest", Wish(kind="shop", options=options | {"max_side": 24}))
    assert there(faulty) == tree(tmp_path / "dest")
    with pytest.raises(UsageError, match="--zip: s3://"):
        exported(out, faulty, "shop", options=options, zip=True)


def test_pyarrow_reads_it_from_the_bucket(tmp_path: Path, moto: Served) -> None:
    exported(made(tmp_path), moto, "pairs")
    endpoint = moto.endpoint.removeprefix("http://")
    reader = fs.S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=endpoint, scheme="http", region="us-east-1"
    )
    bucket = moto.bucket.removeprefix("s3://")
    rows = parquet.read_table(f"{bucket}/{PLACE}/data", filesystem=reader).to_pylist()
    assert [row["id"] for row in rows] == [f"j{number}" for number in range(30)]
    assert rows[3]["edited_image"]["bytes"] == (tmp_path / "out/images/j3.jpg").read_bytes()
    assert rows[3]["input_image_2"]["bytes"] == (tmp_path / "b.png").read_bytes()
    assert rows[3]["tags.sku"] == "00003"


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_references_in_buckets_are_kept_with_the_pairs(place: str, tmp_path: Path, moto: Served) -> None:
    data = picture(5, "png")
    moto.store().put("photos/a.png", data, hashlib.sha256(data).hexdigest())
    sources = [f"{moto.bucket}/photos/{name}.png" for name in "ab"]
    out = folder(
        tmp_path / "out",
        (job(number, images=(Reference(source=one, url=one),)) for number, one in enumerate([sources[0], *sources])),
    )
    (out / "manifest.yaml").write_text(f"version: 1\n{moto.yaml}", encoding="utf-8")
    for _ in range(2):
        dest = tmp_path / "dest" if place == "folder" else destination(f"{moto.bucket}/{PLACE}")
        done = export(out, dest, Wish(kind="pairs:musubi"))
        assert (done.pictures, done.left_out) == (
            2,
            {"j2": f"its reference cannot be fetched: there is no {sources[1]}"},
        )
        files_there = tree(tmp_path / "dest") if place == "folder" else there(moto)
        assert files_there["train/control/j0.png"] == data
        moto.store().delete("photos/a.png")


def test_other_things_in_it_and_other_formats_are_refused(tmp_path: Path, moto: Served) -> None:
    out = made(tmp_path)
    digest = hashlib.sha256(b"words").hexdigest()
    moto.store().put(f"{PLACE}/thesis.txt", b"words", digest)
    with pytest.raises(UsageError, match=r"sets/mugs has other things in it \(thesis\.txt\): choose a new prefix"):
        exported(out, moto, "parquet")
    moto.store().delete(f"{PLACE}/thesis.txt")
    moto.store().put("sets/mugs-2/thesis.txt", b"words", digest)
    exported(out, moto, "parquet")
    with pytest.raises(UsageError, match="holds an export as parquet, and not as imagefolder"):
        exported(out, moto, "imagefolder")
    moto.store().put(f"{PLACE}/mine.txt", b"words", digest)
    exported(out, moto, "parquet")
    assert there(moto)["mine.txt"] == b"words"


def test_a_bucket_that_cannot_be_used_is_a_fault_of_the_call(tmp_path: Path, faulty: Faulty) -> None:
    out = made(tmp_path, range(1))
    with pytest.raises(UsageError, match=r"nothing was\. s3://nowhere-at-all/.*: there is no such bucket"):
        exported(out, replace(faulty, bucket="s3://nowhere-at-all"), "imagefolder")
    faulty.front.faults.append(DENIED)
    with pytest.raises(UsageError, match="access is denied"):
        exported(out, faulty, "imagefolder")


def test_the_mirror_of_a_folder_is_no_place_for_its_export(tmp_path: Path, moto: Served) -> None:
    out = made(tmp_path)
    with closing(connect(out / "ledger.db")) as connection:
        set_meta(connection, "mirror", f"{moto.bucket}/sets")
    with pytest.raises(UsageError, match=r"which mirrors .*out, lie in each other"):
        exported(out, moto, "parquet")


def test_one_at_a_time_on_a_machine(tmp_path: Path, moto: Served) -> None:
    place = destination(f"{moto.bucket}/{PLACE}")
    with (
        opened(place, tmp_path, "parquet", moto.stores),
        pytest.raises(FolderBusy, match="Another process exports to s3://"),
        opened(place, tmp_path, "parquet", moto.stores),
    ):
        pass


def test_what_a_killed_one_left_under_way_is_removed(tmp_path: Path, moto: Served) -> None:
    place = destination(f"{moto.bucket}/{PLACE}")
    with opened(place, tmp_path, "parquet", moto.stores) as one:
        spool = one.spool
        assert (spool.parent, spool.stat().st_mode & 0o777) == (tmp_path / "spool", 0o700)
    spool.mkdir(0o700)
    (spool / "half").write_bytes(b"half a shard")
    with opened(place, tmp_path, "parquet", moto.stores) as one:
        assert list(one.spool.iterdir()) == []
    assert not spool.exists()
    spool.mkdir()
    spool.chmod(0o777)
    with pytest.raises(UsageError, match="is not a folder of this user's alone: remove it, or let TMPDIR name another"):
        opened(place, tmp_path, "parquet", moto.stores).__enter__()


def test_who_began_first_stops_where_another_machine_began(
    tmp_path: Path, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = destination(f"{moto.bucket}/{PLACE}")
    (tmp_path / "other").mkdir()

    def both(*, ended: bool) -> None:
        """Begin twice, as two machines would."""
        with ExitStack() as stack:
            monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spool"))
            one = stack.enter_context(opened(place, tmp_path, "parquet", moto.stores))
            monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))
            with opened(place, tmp_path, "parquet", moto.stores) as other:
                other.put("a", b"other")
                if not ended:
                    one.put("b", b"one")
                    one.rename({"b": "c"})
            one.put("b", b"one")

    for ended in (True, False):
        with pytest.raises(FolderBusy, match="Another process exports to s3://"):
            both(ended=ended)
        assert there(moto)["a"] == b"other"


def test_a_claim_is_withdrawn_before_its_file_is_written_over(tmp_path: Path, moto: Served) -> None:
    """Killed after that, with the file of before wanted again: it is not taken for there."""
    place = destination(f"{moto.bucket}/{PLACE}")
    with opened(place, tmp_path, "parquet", moto.stores) as one:
        one.put("a", b"before")
    with ExitStack() as stack:
        stack.enter_context(suppress(StorageError))
        stack.enter_context(opened(place, tmp_path, "parquet", moto.stores)).put("a", b"behind")
        raise StorageError("as good as killed: nothing more gets on record")
    with opened(place, tmp_path, "parquet", moto.stores) as three:
        three.put("a", b"before")
    assert there(moto)["a"] == b"before"


def test_the_command_says_the_address_and_how_it_is_read(
    tmp_path: Path, moto: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    out, address = made(tmp_path), f"{moto.bucket}/{PLACE}"
    cli.main(["export", str(out), address, "--format", "parquet"], standalone_mode=False)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [address]
    call = f'load_dataset("parquet", data_files={{"train": ["{address}/data/train-*.parquet"]}})'
    assert f"To read it: {call}" in shown.err
    assert f"rows = {call}" in there(moto)["README.md"].decode()


def test_settings_come_from_the_manifest_that_the_folder_keeps(tmp_path: Path, moto: Served) -> None:
    (tmp_path / ".env").write_text(f"AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY={SECRET_KEY}\n")
    said = stores_of_folder(tmp_path, tmp_path, {})
    assert (said.settings, said.look_up("AWS_ACCESS_KEY_ID")) == ({}, ACCESS_KEY)
    (tmp_path / "manifest.yaml").write_text(f"version: 0\nolder: [1]\n{moto.yaml}", encoding="utf-8")
    assert stores_of_folder(tmp_path, tmp_path, {}).settings[moto.bucket].endpoint == moto.endpoint
    (tmp_path / "manifest.yaml").write_text("{", encoding="utf-8")
    assert stores_of_folder(tmp_path, None, {}).settings == {}
    (tmp_path / "manifest.yaml").write_text("stores: {s3://mugs: {style: wrong}}", encoding="utf-8")
    with pytest.raises(UsageError, match="style"):
        stores_of_folder(tmp_path, None, {})


POINTS = ("export.placed:1", "export.written:1", "export.recorded:2", "export.placed:1")


@pytest.mark.slow
@pytest.mark.timeout(300)  # six times the program, each of which imports much
@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_midst_and_again_it_has_the_same_bytes(kind: str, tmp_path: Path, moto: Served) -> None:
    out = made(tmp_path, range(12))
    environ = os.environ | moto.environ | {"TMPDIR": str(tmp_path / "spool")}
    line = [sys.executable, "-m", "batchflux", "export", str(out), f"{moto.bucket}/{PLACE}", "--format", kind]

    def code(**more: str) -> int:
        return subprocess.run(line, env=environ | more, capture_output=True, check=False).returncode

    assert code() == 0
    whole = moto.objects()
    for key in whole:
        moto.store().delete(key)
    killed = [code(**{VARIABLE: point}) for point in POINTS]
    assert killed.count(-signal.SIGKILL) >= 2
    assert code() == 0
    assert moto.objects() == whole
    assert not list((tmp_path / "spool").iterdir())
