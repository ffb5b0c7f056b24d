"""References that are links: fetched once, through the guard, and kept with the pairs."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from pyarrow import parquet

from batchflux.errors import UsageError
from batchflux.exports.export import Wish, export
from batchflux.models import Reference
from tests.exports.folders import folder, job, picture, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.exports.export import Exported
    from tests.stores import Served


class Shop(BaseHTTPRequestHandler):
    """Serves /NUMBER.png, at the second time where it is from 90 on; counts who asked for what."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.strip("/").partition(".")[0]
        data = picture(int(name), "png") if name.isdecimal() else b"<html>"
        busy = name.startswith("9") and self.asked.count(self.path) == 1
        self.send_response(404 if name == "gone" else 503 if busy else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class has it so
        """Say nothing."""


@contextmanager
def shop() -> Iterator[tuple[str, list[str]]]:
    """Open a shop; yield its host and what was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (Shop,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def made(tmp_path: Path, host: str, *names: str) -> Path:
    links = [Reference(source=f"http://{host}/{name}", url=f"http://{host}/{name}") for name in names]
    jobs = (job(number, images=(links[number % len(links)],)) for number in range(12))
    return folder(tmp_path / "out", jobs)


def exported(out: Path, *hosts: str, only: str | None = None) -> Exported:
    return export(out, out.parent / "dest", Wish(kind="pairs", allow_hosts=hosts, only=only))


def test_a_link_is_fetched_once_and_its_picture_kept(tmp_path: Path) -> None:
    with shop() as (host, asked):
        out = made(tmp_path, host, "1.png", "2.png")
        assert exported(out, host).pictures == 12
        assert sorted(asked) == ["/1.png", "/2.png"]
    first = tree(tmp_path / "dest")
    assert exported(out, host).pictures == 12  # nobody answers any more
    assert tree(tmp_path / "dest") == first
    (file,) = (tmp_path / "dest/data").glob("*.parquet")
    inputs = [row["input_image"]["bytes"] for row in parquet.read_table(file).to_pylist()]
    assert inputs == [picture(1, "png"), picture(2, "png")] * 6


def test_a_link_that_fails_for_now_is_fetched_again(tmp_path: Path) -> None:
    with shop() as (host, asked):
        assert exported(made(tmp_path, host, "91.png"), host).pictures == 12
    assert asked == ["/91.png", "/91.png"]


def test_what_cannot_be_had_takes_its_pairs_out(tmp_path: Path) -> None:
    with shop() as (host, asked):
        done = exported(made(tmp_path, host, "1.png", "gone.png", "page.html"), host)
    assert done.pictures == 4
    assert "the picture is gone" in done.left_out["j1"]
    assert "leads to no picture" in done.left_out["j2"]
    assert len(asked) <= 9


def test_a_private_host_is_not_asked_unless_it_is_named(tmp_path: Path) -> None:
    with shop() as (host, asked), pytest.raises(UsageError, match=r"its reference cannot be fetched: .*127\.0\.0\.1"):
        exported(made(tmp_path, host, "1.png"))
    assert asked == []


@pytest.mark.parametrize(
    "said",
    [
        "provider: {{base_url: 'http://{host}/v1', name: mine}}",
        "providers: {{a: {{api: bfl}}, b: {{base_url: ['https://a.b', 'http://{host}'], allow_hosts: ['${{X}}']}}}}",
        "provider: {{name: simulator, allow_hosts: [127.0.0.0/8]}}",
    ],
)
def test_what_the_manifest_names_is_asked(tmp_path: Path, said: str) -> None:
    with shop() as (host, _):
        out = made(tmp_path, host, "1.png")
        (out / "manifest.yaml").write_text(f"version: 1\n{said.format(host=host)}\n", encoding="utf-8")
        assert exported(out).pictures == 12


def test_only_what_is_exported_is_fetched(tmp_path: Path) -> None:
    with shop() as (host, asked):
        assert exported(made(tmp_path, host, "1.png", "2.png", "3.png"), host, only="j1").pictures == 1
    assert asked == ["/2.png"]


def test_references_in_buckets_are_read_there(moto: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables of whoever exports; a pair whose photo is gone stays out."""
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    data = picture(1, "png")
    moto.store().put("p/a b?.png", data, hashlib.sha256(data).hexdigest())
    sources = [f"{moto.bucket}/p/{name}" for name in ("a b?.png", "gone.png")]
    jobs = [job(number, images=(Reference(source=source, url=source),)) for number, source in enumerate(sources)]
    out = folder(tmp_path / "out", jobs)
    done = exported(out)
    assert done.pictures == 1
    assert done.left_out == {"j1": f"its reference cannot be fetched: there is no {sources[1]}"}
    (file,) = (tmp_path / "dest/data").glob("*.parquet")
    assert [row["input_image"]["bytes"] for row in parquet.read_table(file).to_pylist()] == [data]
