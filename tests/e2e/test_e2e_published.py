"""Local photos that reach APIs by way of a bucket: on moto and nanio, by a bank and by the simulator that fetches."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pytest

from batchflux.simulator import EmbeddedSimulator, parse_options
from batchflux.testing.bank import picture_of
from tests.photos.conftest import encoded, turned
from tests.stores import _moto_port, _nanio_place, moto, nanio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.testing.bank import Bank
    from batchflux.testing.program import Program
    from tests.stores import Served

__all__ = ["_moto_port", "_nanio_place", "moto", "nanio"]

JOBS = "".join(
    f"  - {{id: {name}{seed}, prompt: 'make {name}{seed} #url', image: p/{name}.png, seed: {seed}, "
    "aspect_ratio: 16:9}\n"
    for name in "ab"
    for seed in (1, 2)
)


def photo_of(name: str) -> bytes:
    return picture_of(f"photo {name}")


@pytest.fixture
def published(program: Program, manifest: Callable[..., str]) -> Callable[..., str]:
    """Write a manifest whose photos are put into a bucket; return its name."""
    for name in "ab":
        (program.folder / "p").mkdir(exist_ok=True)
        (program.folder / "p" / f"{name}.png").write_bytes(photo_of(name))

    def write(bucket: Served, jobs: str = JOBS, links: str = "sign: 2h", **more: str) -> str:
        program.environ |= bucket.environ
        told = f"references: {{publish: {{to: '{bucket.bucket}/refs', {links}}}}}\n"
        return manifest(jobs, more=told, **more)

    return write


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  of a server of our own
        return bytes(answer.read())


def leaks(program: Program, *texts: str) -> list[str]:
    """Return where something of a signature stands: in the output folder, or in what was printed."""
    found = [str(path) for path in program.out.rglob("*") if path.is_file() and b"X-Amz-S" in path.read_bytes()]
    return found + [text for text in texts if "X-Amz-S" in text]


def key_of(name: str) -> str:
    return f"refs/{hashlib.sha256(photo_of(name)).hexdigest()}.png"


@pytest.mark.parametrize("served", ["moto", pytest.param("nanio", marks=pytest.mark.slow)])
def test_local_photos_travel_as_signed_links_with_seeds_and_ratios(
    program: Program, bank: Bank, published: Callable[..., str], request: pytest.FixtureRequest, served: str
) -> None:
    bucket: Served = request.getfixturevalue(served)
    name = published(bucket)
    planned = program("plan", name)
    assert planned.code == 0, planned.said
    assert f"publish           2  to be put below {bucket.bucket}/refs, 0.0 MB, each once for ever" in planned.out
    assert f'"prompt": "{bucket.bucket}/{key_of("a")}?signature make a1 #url"' in planned.out
    assert bucket.objects() == {}
    ended = program("run", name)
    assert ended.code == 0, ended.said
    assert bucket.objects() == {key_of(letter): photo_of(letter) for letter in "ab"}
    for seen in bank.seen:
        url, _, rest = seen.body["prompt"].partition(" ")
        assert (seen.path, seen.body["aspect_ratio"]) == ("/v1/images/generations", "16:9")
        name = rest.split()[1]
        assert (rest, seen.body["seed"]) == (f"make {name} #url", int(name[1]))
        assert fetched(url) == photo_of(name[0])
        assert dict(parse_qsl(urlsplit(url).query))["X-Amz-Expires"] == "7200"
    assert leaks(program, planned.said, ended.said) == []
    assert {row["prompt"] for row in program.rows()} == {f"make {name}{seed} #url" for name in "ab" for seed in (1, 2)}
    assert {row["images"] for row in program.rows()} == {"p/a.png", "p/b.png"}


def test_what_was_put_is_not_put_again_nor_asked_for(
    program: Program, bank: Bank, published: Callable[..., str], moto: Served
) -> None:
    program("run", published(moto))
    with closing(sqlite3.connect(program.out / "ledger.db")) as ledger:
        assert ledger.execute("SELECT provider, url FROM uploads ORDER BY url").fetchall() == sorted(
            (f"bucket {moto.bucket}/refs", f"{moto.bucket}/{key_of(name)}") for name in "ab"
        )
    more = JOBS + "  - {id: c, prompt: 'job c #url', image: p/a.png}\n"
    name = published(moto, more)
    assert "  publish " not in program("plan", name).out
    program.environ["AWS_ENDPOINT_URL_S3"] = "http://127.0.0.1:9"  # nothing is put: signing needs no server
    assert program("run", name).code == 0
    assert len(bank.seen) == 5


@pytest.mark.slow
def test_public_links_are_written_as_the_template_says(
    program: Program, bank: Bank, published: Callable[..., str], moto: Served
) -> None:
    address = f"{moto.endpoint}/{moto.bucket.removeprefix('s3://')}/{{key}}"
    name = published(moto, links=f"url: '{address}'")
    shown = f'"prompt": "{address.format(key=key_of("a"))} make a1 #url"'
    assert shown in program("plan", name).out
    assert program("run", name).code == 0
    sent = {seen.body["prompt"].split()[0] for seen in bank.seen}
    assert sent == {address.format(key=key_of(letter)) for letter in "ab"}


def test_a_job_keeps_its_key_and_its_picture_when_its_photos_are_published(
    program: Program, bank: Bank, published: Callable[..., str], manifest: Callable[..., str], moto: Served
) -> None:
    jobs = "  - {id: a, prompt: 'job a #link', image: p/a.png}\n"
    published(moto)
    assert program("run", manifest(jobs)).code == 0
    (before,) = program.rows()
    assert program("run", published(moto, jobs)).code == 0
    (after,) = program.rows()
    assert (len(bank.seen), after["key"], after["style"]) == (1, before["key"], "chat")
    assert program("run", manifest(jobs)).code == 0
    assert len(bank.seen) == 1


def test_an_echo_of_the_signed_link_is_no_picture_and_is_kept_without_it(
    program: Program, bank: Bank, published: Callable[..., str], moto: Served
) -> None:
    jobs = "  - {id: e, prompt: 'job e #echoes', image: p/a.png, seed: 1}\n"
    jobs += "  - {id: i, prompt: 'job i #invalidlink', image: p/a.png, seed: 1}\n"
    name = published(moto, jobs)

    def echo(job: str) -> None:
        bank.links[job] = bank.seen[-1].body["prompt"].split()[0]

    bank.hook = echo
    ended = program("run", name)
    assert ended.code == 1
    rows = {row["id"]: row for row in program.rows()}
    assert {row["error_code"] for row in rows.values()} <= {"no_image", "bad_answer", "echoed_input"}, rows
    kept = list((program.out / "answers").iterdir())
    assert kept
    assert all(b"?***" in path.read_bytes() for path in kept)
    assert leaks(program, ended.said) == []
    again = program("run", name, "--retry-failed", "--limit", "0")
    assert leaks(program, again.said) == []


def test_a_bucket_that_takes_nothing_stops_the_run_and_spends_nothing(
    program: Program, bank: Bank, published: Callable[..., str], moto: Served
) -> None:
    name = published(moto)
    text = (program.folder / name).read_text(encoding="utf-8")
    (program.folder / name).write_text(text.replace(moto.bucket, "s3://no-such-bucket-here"), encoding="utf-8")
    ended = program("run", name)
    assert ended.code == 3, ended.said
    assert "no-such-bucket-here" in ended.said
    assert bank.seen == []
    summary = json.loads((program.out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["reason"], summary["possibly_billed"], summary["jobs"]["pending"]) == ("bucket", 0, 4)
    (program.folder / name).write_text(text, encoding="utf-8")
    assert program("run", name).code == 0
    assert len(bank.seen) == 4


def test_a_bucket_that_refuses_the_key_stops_the_run(
    program: Program, bank: Bank, published: Callable[..., str], nanio: Served
) -> None:
    name = published(nanio)
    ended = program("run", name, AWS_SECRET_ACCESS_KEY="another-secret")
    assert ended.code == 3, ended.said
    assert nanio.bucket in ended.said
    assert "another-secret" not in ended.said
    assert (bank.seen, nanio.objects()) == ([], {})


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[EmbeddedSimulator]:
    """A relay that fetches the references of its requests."""
    options = {"fetch": True, "latency": 0, "size": 64, "cache_dir": str(tmp_path / "cache")}
    simulator = EmbeddedSimulator(parse_options(options), "flux-relay")
    simulator.start()
    yield simulator
    simulator.stop()


def test_a_relay_fetches_the_signed_links(
    program: Program, published: Callable[..., str], nanio: Served, fetching: EmbeddedSimulator, bank: Bank
) -> None:
    name = published(nanio)
    text = (program.folder / name).read_text(encoding="utf-8")
    address = f"http://{fetching.simulator.host}:{fetching.simulator.port}"
    (program.folder / name).write_text(text.replace(bank.url, address), encoding="utf-8")
    ended = program("run", name)
    assert ended.code == 0, ended.said
    rows = {row["id"]: row for row in program.rows()}
    assert {(row["width"], row["height"]) for row in rows.values()} == {("64", "36")}
    assert len({row["sha256"] for row in rows.values()}) == 4
    assert leaks(program, ended.said) == []


def test_a_link_that_leads_nowhere_is_said_without_its_signature_and_mended(
    program: Program, published: Callable[..., str], moto: Served, fetching: EmbeddedSimulator, bank: Bank
) -> None:
    name = published(moto)
    text = (program.folder / name).read_text(encoding="utf-8")
    address = f"http://{fetching.simulator.host}:{fetching.simulator.port}"
    (program.folder / name).write_text(text.replace(bank.url, address), encoding="utf-8")
    assert program("run", name, "--only", "b*").code == 0
    moto.store().delete(key_of("b"))
    (program.folder / name).write_text(
        text.replace(bank.url, address) + "  - {id: c, prompt: more, image: p/b.png}\n", encoding="utf-8"
    )
    ended = program("run", name, "--only", "c")
    assert ended.code == 1
    row = next(row for row in program.rows() if row["id"] == "c")
    assert row["error_code"] == "invalid_request"
    assert f"Failed to download the file {moto.endpoint}" in row["error"]
    assert key_of("b") in row["error"]
    assert leaks(program, ended.said) == []
    assert program("run", name, "--only", "c", "--retry-failed").code == 0
    assert key_of("b") in moto.objects()


def test_what_lies_in_a_bucket_is_sent_as_a_signed_link(
    program: Program, bank: Bank, moto: Served, manifest: Callable[..., str]
) -> None:
    program.environ |= moto.environ
    data = photo_of("a")
    moto.store().put("shelf/a ö?.png", data, hashlib.sha256(data).hexdigest())
    place = f"{moto.bucket}/shelf/a ö?.png"
    jobs = f"  - {{id: a, prompt: 'make a #url', images: ['{place}'], seed: 1}}\n"
    jobs += f"  - {{id: b, prompt: 'make b #link', images: ['{place}'], style: chat}}\n"
    jobs += f"  - {{id: c, prompt: 'make c #link', images: ['{place}', '{moto.bucket}/gone.png'], style: chat}}\n"
    name = manifest(jobs)
    planned = program("plan", name)
    assert planned.code == 0, planned.said
    assert f'"prompt": "{place}?signature make a #url"' in planned.out
    ended = program("run", name)
    assert ended.code == 1, ended.said
    errors = {row["id"]: row["error"] for row in program.rows()}
    assert errors == {
        "a": "",
        "b": "",
        "c": f"the reference {moto.bucket}/gone.png is not there; put it there and run again",
    }
    assert len(bank.seen) == 2
    sent = {word for seen in bank.seen for word in seen.text.split() if word.startswith("http")}
    assert {fetched(url) for url in sent} == {data}
    assert {row["images"] for row in program.rows()} == {place, f"{place} {moto.bucket}/gone.png"}
    assert leaks(program, planned.said, ended.said) == []


@pytest.mark.slow
def test_an_api_that_takes_no_links_gets_the_bytes_of_what_lies_in_a_bucket(program: Program, moto: Served) -> None:
    graph = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "cup"}},
        "10": {"class_type": "LoadImage", "inputs": {"image": ""}},
    }
    program.environ |= moto.environ
    files = {"up.jpg": turned("JPEG", 6), "half.jpg": encoded("JPEG")[:400], "plain.png": photo_of("a")}
    for key, data in files.items():
        moto.store().put(key, data, hashlib.sha256(data).hexdigest())
    made = EmbeddedSimulator(parse_options({"latency": 0, "size": 64, "cache_dir": f"{program.folder}/c"}))
    host, port = made.start()
    jobs = "".join(f"  - {{id: {key}, prompt: {key}, image: {moto.bucket}/{key}}}\n" for key in (*files, "gone.jpg"))
    more = f"  - {{id: own, prompt: own, image: {program.folder}/own.png}}\n"
    (program.folder / "own.png").write_bytes(photo_of("b"))
    inputs = "{prompt: 6.text, seed: 3.seed, image: 10.image}"
    program.write(
        "m.yaml",
        f"version: 1\nname: m\nprovider: {{name: comfyui, base_url: 'http://{host}:{port}', price: 0, "
        f"options: {{workflow: {json.dumps(graph)}, inputs: {inputs}}}}}\nlimits: {{timeout: 20s}}\n"
        f"references: {{publish: {{to: '{moto.bucket}/refs', sign: 2h}}}}\n"
        f"output: {{dir: {program.out}}}\njobs:\n{jobs}{more}",
    )
    try:
        ended = program.run()
    finally:
        made.stop()
    rows = {row["id"]: row for row in program.rows()}
    assert {name for name, row in rows.items() if row["status"] == "done"} == {"up.jpg", "plain.png", "own"}, ended.said
    assert rows["half.jpg"]["error"].startswith(f"the reference {moto.bucket}/half.jpg is a JPEG that is cut off")
    assert rows["gone.jpg"]["error"] == f"the reference {moto.bucket}/gone.jpg is not there; put it there and run again"
    assert {rows[name]["error_code"] for name in ("half.jpg", "gone.jpg")} == {"reference"}
    assert moto.objects().keys() == files.keys(), "what travels as bytes is not published"


@pytest.mark.slow
def test_a_batch_carries_the_bytes_of_photos_and_of_what_lies_in_a_bucket(program: Program, moto: Served) -> None:
    program.environ |= moto.environ
    data = photo_of("a")
    moto.store().put("a.png", data, hashlib.sha256(data).hexdigest())
    (program.folder / "own.png").write_bytes(photo_of("b"))
    options = {"size": 40, "batch_seconds": 0, "cache_dir": f"{program.folder}/c"}
    made = EmbeddedSimulator(parse_options(options), "openai")
    host, port = made.start()
    program.write(
        "m.yaml",
        f"version: 1\nname: m\nprovider: {{name: openai, base_url: 'http://{host}:{port}', keys: [TEST_KEY], "
        f"model: gpt-image-1.5, price: 0, mode: batch}}\nlimits: {{canary: 0}}\noutput: {{dir: {program.out}}}\n"
        f"references: {{publish: {{to: '{moto.bucket}/refs', sign: 2h}}}}\n"
        f"jobs:\n  - {{id: there, prompt: x, image: {moto.bucket}/a.png}}\n"
        f"  - {{id: own, prompt: y, image: own.png}}\n  - {{id: gone, prompt: z, image: {moto.bucket}/b.png}}\n",
    )
    try:
        ended = program.run()
        kept = [path.name for path in (program.folder / "c").iterdir()]
    finally:
        made.stop()
    rows = {row["id"]: (row["status"], row["error_code"]) for row in program.rows()}
    assert rows == {"there": ("done", ""), "own": ("done", ""), "gone": ("failed", "reference")}, ended.said
    sent = [hashlib.sha256(photo).hexdigest() for photo in (data, photo_of("b"))]
    assert all(any(digest in name for name in kept) for digest in sent), kept
    assert moto.objects().keys() == {"a.png"}


@pytest.mark.parametrize("style", ["standard", "chat"])
def test_a_bucket_that_is_not_to_be_had_is_the_matter_of_its_jobs(
    program: Program, bank: Bank, moto: Served, style: str
) -> None:
    program.environ |= moto.environ
    moto.store().put("a.png", photo_of("a"), hashlib.sha256(photo_of("a")).hexdigest())
    images = {"good": f"{moto.bucket}/a.png", "none": "s3://no-such-bucket/a.png", "unsaid": "oss://unsaid/a.png"}
    jobs = "".join(
        f"  - {{id: {name}, prompt: 'job {name} #url', image: '{image}', style: {style}}}\n"
        for name, image in reversed(images.items())
    )
    program.manifest(bank.url, jobs)
    ended = program.run()
    assert ended.code == 1, ended.said
    rows = {row["id"]: row for row in program.rows()}
    assert {name: row["error_code"] for name, row in rows.items()} == {
        "good": "",
        "none": "reference",
        "unsaid": "reference",
    }
    assert "s3://no-such-bucket/a.png: there is no such bucket" in rows["none"]["error"]
    assert "oss://unsaid: name its region" in rows["unsaid"]["error"]
    assert bank.posts.total() == 1
