"""Files of lines: written picture by picture, as long as was said before, and sent as they are read."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import stat
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError, StorageError
from batchflux.models import Bytes, Finished, HttpRequest, Inline, Json, LocalFile, LocalImage, Multipart
from batchflux.transport.encoded import EncodedPhotos
from batchflux.transport.lines import size_of, write_lines


class Whole:
    """Reads any answer."""

    def feed(self, data: bytes) -> bool:
        return False

    def finish(self, *, complete: bool) -> Finished:
        return Finished(asset=Inline(data=b""))


def image(path: Path, data: bytes, encoding: Any = "data_url") -> LocalImage:
    path.write_bytes(data)
    return LocalImage(
        path=str(path), sha256=hashlib.sha256(data).hexdigest(), media_type="image/png", encoding=encoding
    )


def line(key: str, *images: LocalImage) -> tuple[str, Json]:
    return key, Json(value={"custom_id": key, "body": {"prompt": "a\u2028b\x85c\nd", "images": images}})


async def test_lines_are_as_long_as_was_said_and_hold_their_pictures(tmp_path: Path) -> None:
    photos = [image(tmp_path / f"{size}.png", bytes(range(256)) * size) for size in (0, 1, 4000)]
    raw = image(tmp_path / "raw", b"raw", "base64")
    lines = [line("a"), line("b", *photos), line("c", raw, photos[2])]
    path = tmp_path / ".batches" / "x.jsonl"
    for _ in range(2):  # the second takes the place of the first
        written = await write_lines(path, lines)
        assert (written.file.path, written.left_out) == (str(path), {})
        assert written.file.size == path.stat().st_size == sum(size_of(content) for _, content in lines)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = [json.loads(each) for each in path.read_text().splitlines()]  # of all ends of lines that Python knows
        assert [each["custom_id"] for each in found] == ["a", "b", "c"]
        assert found[0]["body"]["prompt"] == "a\u2028b\x85c\nd"
        inside = base64.b64decode(found[1]["body"]["images"][2].removeprefix("data:image/png;base64,"))
        assert inside == bytes(range(256)) * 4000
        assert found[2]["body"]["images"][0] == base64.b64encode(b"raw").decode()


async def test_a_line_whose_picture_is_not_to_be_had_is_left_out_alone(tmp_path: Path) -> None:
    good, gone = image(tmp_path / "good", b"good" * 200_000), image(tmp_path / "gone", b"gone")
    changed = image(tmp_path / "changed", b"as it was")
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_bytes(b"as it is!")
    lines = [line("a", good), line("b", good, gone), line("c", changed), ("d", Json(value={"p": "\ud800"})), line("e")]
    with pytest.raises(JobError, match="gone cannot be read") as error:
        size_of(lines[1][1])
    assert error.value.code is Code.REFERENCE
    written = await write_lines(tmp_path / "x", lines)
    assert {key: error.code for key, error in written.left_out.items()} == {
        "b": Code.REFERENCE,
        "c": Code.REFERENCE,
        "d": Code.INVALID_REQUEST,
    }
    assert [json.loads(each)["custom_id"] for each in (tmp_path / "x").read_text().splitlines()] == ["a", "e"]
    assert written.file.size == (tmp_path / "x").stat().st_size == size_of(lines[0][1]) + size_of(lines[4][1])


async def test_a_file_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        await write_lines(tmp_path, [line("a")])


async def test_memory_holds_no_more_than_a_few_pictures(tmp_path: Path) -> None:
    photos = [image(tmp_path / str(number), bytes([number]) * (3 << 20)) for number in range(6)]
    tracemalloc.start()
    try:
        written = await write_lines(tmp_path / "x", (line(photo.path, photo) for photo in photos), EncodedPhotos(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written.file.size > 6 * (4 << 20) > 2 * peak


@pytest.mark.parametrize("how", ["whole", "form"])
async def test_a_file_goes_out_as_it_lies_there(tmp_path: Path, serve: Any, connect: Any, how: str) -> None:
    whole = how == "whole"
    data = bytes(range(256)) * 4000
    (tmp_path / "x.jsonl").write_bytes(data)
    file = LocalFile(path=str(tmp_path / "x.jsonl"), size=len(data), media_type="application/jsonl")
    content = Bytes(image=file) if whole else Multipart(parts=(("purpose", "batch"), ("file", file)))
    server = await serve(["read", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
    transport = await connect(server.url)
    request = HttpRequest(method="POST", url="/f", reader=lambda *_: Whole(), content=content, repeatable=True)
    await transport.exchange(request)
    head, body = server.requests[0]
    assert b"application/jsonl" in (head if whole else body)
    assert f"content-length: {len(body)}".encode() in head.lower()
    if whole:
        assert body == data
    else:
        assert data in body
        assert b'name="file"; filename="x.jsonl"' in body
        assert b'name="purpose"' in body


async def test_a_file_that_is_not_as_long_as_it_was_is_not_sent(tmp_path: Path, connect: Any) -> None:
    file = LocalFile(path=str(tmp_path / "x"), size=3, media_type="text/plain")
    transport = await connect("http://127.0.0.1:9")
    request = HttpRequest(method="POST", url="/f", reader=lambda *_: Whole(), content=Bytes(image=file))
    with pytest.raises(StorageError, match="cannot be read"):
        await transport.exchange(request)
    (tmp_path / "x").write_text("four")
    with pytest.raises(StorageError, match="written by somebody else"):
        await transport.exchange(request)


texts = st.text(st.characters(), max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(texts, st.one_of(texts, st.lists(texts, max_size=3)), max_size=4), max_size=4))
def test_lines_of_any_text_come_back_as_long_as_was_said(values: list[dict[str, Any]]) -> None:
    said = 0
    for value in values:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            with pytest.raises(JobError, match="surrogate"):
                size_of(Json(value=value))
        else:
            said += size_of(Json(value=value))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        lines = [(str(number), Json(value=value)) for number, value in enumerate(values)]
        written = asyncio.run(write_lines(path, lines))
        found = [json.loads(each) for each in path.read_text().splitlines()]
    assert written.file.size == said
    assert found == [value for number, value in enumerate(values) if str(number) not in written.left_out]
