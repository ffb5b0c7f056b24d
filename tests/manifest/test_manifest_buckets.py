"""References, tables and globs in buckets, on a real server."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from batchflux.errors import ManifestError
from batchflux.manifest import Manifest, expand
from batchflux.output.stores.base import SCHEMES
from batchflux.planner import load_manifest, plan
from batchflux.providers import capabilities
from batchflux.redaction import redacted
from tests.stores import DENIED

if TYPE_CHECKING:
    from batchflux.errors import Fault
    from batchflux.models import Job
    from tests.conftest import Start
    from tests.stores import Faulty, Served

TABLE = b"sku,title,photo\nM-1,Mug,a.jpg\nC-1,Cup,b/c d?.jpg\n"
ROWS = 'version: 1\njobs:\n  - {prompt: "{{ title }}", from: BUCKET/t.csv, images: ["BUCKET/{{ photo }}"]}\n'


@dataclass(frozen=True)
class Bucket:
    """A bucket, and manifests in the current folder in which it is called BUCKET."""

    served: Served

    def put(self, key: str, data: bytes = b"x") -> None:
        self.served.store().put(key, data, hashlib.sha256(data).hexdigest(), over=True)

    def load(self, text: str, **environ: str) -> Manifest:
        Path("m.yaml").write_text(text.replace("BUCKET", self.served.bucket))
        return load_manifest("m.yaml", environ=self.served.environ | environ)

    def jobs(self, text: str) -> list[Job]:
        return jobs_of(self.load(text))

    def faults(self, text: str, **environ: str) -> list[str]:
        with pytest.raises(ManifestError) as caught:
            self.load(text, **environ)
        return [str(fault).replace(self.served.bucket, "BUCKET") for fault in caught.value.faults]


def jobs_of(manifest: Manifest) -> list[Job]:
    faults: list[Fault] = []
    made = list(expand(manifest, capabilities(), faults.append))
    assert [str(fault) for fault in faults] == []
    return made


def sources(jobs: list[Job], bucket: Bucket) -> list[list[str]]:
    return [[image.source.replace(bucket.served.bucket, "BUCKET") for image in job.images] for job in jobs]


@pytest.fixture
def bucket(moto: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.chdir(tmp_path)
    return Bucket(moto)


@pytest.fixture
def watched(faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket whose server notes what reaches it."""
    monkeypatch.chdir(tmp_path)
    return Bucket(faulty)


def test_a_reference_is_known_by_its_address(bucket: Bucket) -> None:
    """It is not looked at, has no signature, and a `?` in it is a letter of its key."""
    text = "version: 1\njobs:\n" + "".join(
        f'  - {{id: "{at}", prompt: x, images: ["{name}"]}}\n'
        for at, name in enumerate(
            ["BUCKET/a.jpg", "BUCKET/a.jpg?X-Amz-Signature=abc", "BUCKET/a.jpg?sig=1&se=2", "gs://b/a b.jpg"]
        )
    )
    jobs = bucket.jobs(text)
    assert [image.url for job in jobs for image in job.images] == [image.source for job in jobs for image in job.images]
    assert len({job.key for job in jobs}) == 4
    planned = plan(bucket.load(text))
    assert planned.photos["in_buckets"] == 4
    assert planned.photos["photos"] == planned.unreadable == 0


def test_no_address_loses_its_end_as_a_link_would() -> None:
    for scheme in SCHEMES:
        if scheme != "file":
            assert redacted(f"{scheme}://b/a?X-Amz-Signature=0123456789abcdef0123#{'f' * 30}").endswith("f" * 30)


def workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in [["title", "photo"], ["Mug", "a.jpg"], ["Cup", "b/c d?.jpg"]]:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


def columns() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"title": ["Mug", "Cup"], "photo": ["a.jpg", "b/c d?.jpg"]}), file)
    return file.getvalue()


LINES = b'{"title": "Mug", "photo": "a.jpg"}\n{"title": "Cup", "photo": "b/c d?.jpg"}\n'


KINDS = {
    "t.csv": TABLE,
    "t.csv.gz": gzip.compress(TABLE),
    "t.tsv": TABLE.replace(b",", b"\t"),
    "t.jsonl": LINES,
    "t.ndjson.gz": gzip.compress(LINES),
    "t.json": b"[" + LINES.replace(b"}\n{", b"},{") + b"]",
    "t.xlsx": workbook(),
    "t.parquet": columns(),
    "a/T a%b?.CSV": TABLE,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_table(name: str, bucket: Bucket) -> None:
    bucket.put(name, KINDS[name])
    jobs = bucket.jobs(ROWS.replace("BUCKET/t.csv", f'"BUCKET/{name}"'))
    assert [job.prompt for job in jobs] == ["Mug", "Cup"]
    assert sources(jobs, bucket) == [["BUCKET/a.jpg"], ["BUCKET/b/c d?.jpg"]]


def test_a_table_is_read_once(watched: Bucket, faulty: Faulty) -> None:
    """By loading, by plans and runs of that manifest, and when it is read anew for its limits."""
    for key in ("t.csv", "l.txt", "a.jpg", "b/c.jpg"):
        watched.put(key, TABLE)
    text = (
        ROWS
        + ROWS.partition("jobs:\n")[2]
        + (
            "  - {prompt: x, matrix: {image: {glob: BUCKET/**/*.jpg}, provider: [simulator]}}\n"
            "  - {prompt: '{{ line }}', matrix: {line: {lines: BUCKET/l.txt}}}\n"
        )
    )
    manifest = watched.load(text)
    for _ in range(2):
        assert len(jobs_of(manifest)) == 7
        assert plan(manifest, environ={}).counts["total"] == 7
    watched.put("t.csv", b"other\n")
    Path("m.yaml").write_text(Path("m.yaml").read_text() + "limits: {concurrency: 3}\n")
    again = load_manifest(manifest, environ={})
    assert again.limits.concurrency == 3
    assert len(jobs_of(again)) == 7
    seen = [request.partition("?")[0].rpartition("/")[2] for request in faulty.front.seen if request.startswith("GET")]
    assert sorted(name for name in seen if "." in name) == ["l.txt", "t.csv"]
    assert len(seen) == 3


def test_nothing_of_it_is_left(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the folder for temporary files, which nobody else can look into meanwhile; nor when it was no table."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    bucket.put("t.csv", TABLE)
    manifest = bucket.load(ROWS)
    (folder,) = (tmp_path / "tmp").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    del manifest
    gc.collect()
    bucket.put("t.csv", b"\xff\xfe\x00")
    assert bucket.faults(ROWS)
    gc.collect()
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_what_a_killed_program_left_is_removed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """But not what another has in use, nor what another only begins to use."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    bucket.put("t.csv", TABLE)
    used = bucket.load(ROWS)
    Path("m.yaml").write_text(ROWS.replace("BUCKET", bucket.served.bucket))
    for name, value in (bucket.served.environ | {"TMPDIR": str(temporary)}).items():
        monkeypatch.setenv(name, value)
    code = "import sys, batchflux\nkept = batchflux.load_manifest(sys.argv[1])\nprint('ready', flush=True)\ninput()"
    with monkeypatch.context() as here:
        here.chdir(Path(__file__).parents[2])
        program = start(code, tmp_path / "m.yaml")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.kill()
    program.wait()
    assert len([*temporary.iterdir()]) == 2
    for folder in temporary.iterdir():
        os.utime(folder, (0, 0))
    new = tmp_path / "tmp/batchflux-inputs-new"
    new.mkdir()
    again = bucket.load(ROWS)
    assert len([*temporary.iterdir()]) == 3
    assert new.exists()
    assert len(jobs_of(used)) == len(jobs_of(again)) == 2


@pytest.mark.slow
def test_a_program_leaves_nothing_either(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("t.csv", TABLE)
    bucket.put("bad.csv", b"a,a\n")
    (tmp_path / "tmp").mkdir()
    for table, code in (("t.csv", 0), ("bad.csv", 2)):
        (tmp_path / "m.yaml").write_text(ROWS.replace("t.csv", table).replace("BUCKET", bucket.served.bucket))
        environ = os.environ | bucket.served.environ | {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "batchflux", "plan", "m.yaml"],
            check=False,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_globs_and_lines(bucket: Bucket) -> None:
    for key in ("p/b c?.jpg", "p/a.JPG", "p/note.txt", "p/deep/x.png"):
        bucket.put(key)
    bucket.put("lines.txt", b"one\n\ntwo\n")
    jobs = bucket.jobs("""
version: 1
output: {file_name: "{{ image.stem }}/{{ line }}.{{ ext }}"}
jobs:
  - id: "{{ image.stem }}-{{ line }}"
    prompt: "{{ image.name }} {{ image.path }} {{ line }}"
    matrix:
      image: {glob: ["BUCKET/p/*.{jpg,png}", "BUCKET/**/x.*"]}
      line: {lines: BUCKET/lines.txt}
""")
    assert [job.id for job in jobs] == ["a-one", "a-two", "b c?-one", "b c?-two", "x-one", "x-two"]
    assert jobs[2].prompt == f"b c?.jpg {bucket.served.bucket}/p/b c?.jpg one"
    assert [job.file_name for job in jobs[2:4]] == ["images/b c_/one.jpg", "images/b c_/two.jpg"]
    assert sources(jobs, bucket)[::2] == [["BUCKET/p/a.JPG"], ["BUCKET/p/b c?.jpg"], ["BUCKET/p/deep/x.png"]]


def entry(text: str) -> str:
    return f"version: 1\njobs:\n  - {{prompt: x, {text}}}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from: BUCKET/t.csv", "from: the table BUCKET/t.csv does not exist"),
        ("from: BUCKET/bad.CSV", "from: the table BUCKET/bad.CSV does not exist; did you mean BUCKET/bad.parquet?"),
        ("from: BUCKET/t.doc", 'from: found "BUCKET/t.doc"; allowed is a .csv, .tsv, .json or .jsonl'),
        ("from: BUCKET/x/../t.csv", 'from: found "BUCKET/x/../t.csv", in which a name is empty, . or ..; write it'),
        ("from: BUCKET/bad.parquet", "from: the table BUCKET/bad.parquet is no Parquet file that can be read"),
        ("from: BUCKET/bad.xlsx", "from: the table BUCKET/bad.xlsx is no Excel file that can be read"),
        (
            "matrix: {image: {glob: BUCKET/p/*.jpg}}",
            'matrix.image: no file matches the pattern "BUCKET/p/*.jpg"; there is nothing in BUCKET/p',
        ),
        ("matrix: {line: {lines: BUCKET/l.txt}}", 'matrix.line: the file "BUCKET/l.txt" does not exist'),
        ("matrix: {line: {lines: BUCKET/}}", 'matrix.line: found "BUCKET/", which names no file in its bucket'),
    ],
)
def test_faults_of_tables_and_globs(text: str, found: str, bucket: Bucket) -> None:
    for name in ("bad.parquet", "bad.xlsx"):
        bucket.put(name, b"a,a\n1,2\n")
    (fault,) = bucket.faults(entry(text))
    assert fault.startswith(f"m.yaml:3: jobs[0].{found}")
    assert tempfile.gettempdir() not in fault


def test_faults_of_rows_name_the_address(bucket: Bucket) -> None:
    bucket.put("t.csv", TABLE + b"X,,y.jpg\n")
    manifest = bucket.load(ROWS)
    with pytest.raises(ManifestError) as caught:
        plan(manifest)
    assert str(caught.value).startswith(f"{bucket.served.bucket}/t.csv:4: jobs[0].prompt: ")
    bucket.put("t.csv", b"a,a\n")
    assert bucket.faults(ROWS)[0].startswith('BUCKET/t.csv:1: jobs[0].from: the column "a" stands twice')


def test_a_path_in_a_table_of_a_bucket_is_beside_the_manifest(bucket: Bucket) -> None:
    """Where it is not, what is said tells how the bucket's own photo is written."""
    bucket.put("spring/t.csv", TABLE)
    Path("a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(64))
    text = ROWS.replace("BUCKET/t.csv", "BUCKET/spring/t.csv").replace("BUCKET/{{ photo }}", "{{ photo }}")
    first, second = bucket.jobs(text)
    assert first.fault is None
    assert second.fault is not None
    assert second.fault.endswith(
        f"; if it is in the bucket, write its address, as {bucket.served.bucket}/spring/b/c d?.jpg"
    )


def test_a_bucket_that_cannot_be_read(watched: Bucket, faulty: Faulty) -> None:
    faulty.front.methods, faulty.front.always = frozenset({"GET"}), DENIED
    (fault,) = watched.faults(ROWS)
    assert fault.startswith("m.yaml:3: jobs[0].from: the table BUCKET/t.csv cannot be read: ")
    (fault,) = watched.faults(entry("matrix: {image: {glob: BUCKET/p/*.jpg}}"))
    assert fault.startswith("m.yaml:3: jobs[0].matrix.image: ")


def test_where_keys_are_looked_up(bucket: Bucket) -> None:
    """In a file that is named, too; it is what a plan and a run of this manifest use."""
    bucket.put("t.csv", TABLE)
    environ = bucket.served.environ
    Path("secrets.env").write_text("".join(f"{name}={value}\n" for name, value in environ.items()))
    Path("m.yaml").write_text(ROWS.replace("BUCKET", bucket.served.bucket))
    assert len(jobs_of(load_manifest("m.yaml", environ={}, env_file="secrets.env"))) == 2


def test_no_secret_is_pickled(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process keys are looked up anew."""
    bucket.put("t.csv", TABLE)
    manifest = bucket.load(ROWS)
    data = pickle.dumps(manifest)
    assert bucket.served.secret_key.encode() not in data
    for name, value in bucket.served.environ.items():
        monkeypatch.setenv(name, value)
    assert jobs_of(pickle.loads(data)) == jobs_of(manifest)  # noqa: S301  our own bytes
