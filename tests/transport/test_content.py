"""What a request carries: JSON, forms and files, with local pictures put in only if they are what the plan saw."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Content, Finished, HttpRequest, Inline, Json, LocalImage, Multipart
from batchflux.transport.content import ONE_WRITE, Encoded
from batchflux.transport.content import encode as encode_with
from batchflux.transport.encoded import KEPT, PIECE, EncodedPhotos


class Whole:
    """Reads any answer."""

    def feed(self, data: bytes) -> bool:
        return False

    def finish(self, *, complete: bool) -> Finished:
        return Finished(asset=Inline(data=b""))


async def encode(content: Content) -> Encoded:
    return await encode_with(content, EncodedPhotos())


async def body_of(value: dict[str, Any], photos: EncodedPhotos) -> bytes:
    """Return the bytes of a request's JSON, whose length is told where it goes out in pieces."""
    data, headers = await encode_with(Json(value=value), photos)
    assert isinstance(data, bytes | AsyncIterator)
    whole = data if isinstance(data, bytes) else b"".join([piece async for piece in data])
    told = {} if isinstance(data, bytes) else {"Content-Length": str(len(whole))}
    assert headers == {"Content-Type": "application/json", **told}
    return whole


def image(path: Path, data: bytes, encoding: Literal["data_url", "base64"] = "data_url") -> LocalImage:
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return LocalImage(path=str(path), sha256=digest, media_type="image/png", encoding=encoding)


def chat(*images: LocalImage) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *parts]}], "stream": True}


async def sent(body: dict[str, Any]) -> Any:
    return json.loads(await body_of(body, EncodedPhotos()))


async def over_the_wire(
    serve: Any, connect: Any, content: Content, method: Literal["POST", "PUT"]
) -> tuple[Any, bytes]:
    """Return the headers and the body of a request as the server sees them."""
    server = await serve(["read", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
    transport = await connect(server.url)
    await transport.exchange(HttpRequest(method=method, url="/", reader=lambda *_: Whole(), content=content))
    head, body = server.requests[0]
    return BytesParser(policy=HTTP).parsebytes(head.partition(b"\r\n")[2]), body


@pytest.mark.parametrize("size", [0, 1, 1000, 3 << 20])
async def test_the_bytes_travel_as_data_urls(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    one, two = image(tmp_path / "a b.png", data[:size]), image(tmp_path / "b.png", b"two")
    content = (await sent(chat(one, two, one)))["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in content[1:]]
    assert urls[0] == urls[2] == "data:image/png;base64," + base64.b64encode(data[:size]).decode()
    assert urls[1] == "data:image/png;base64,dHdv"
    assert content[0] == {"type": "text", "text": "x"}


async def test_each_picture_travels_as_its_encoding_says(tmp_path: Path) -> None:
    data, bare = image(tmp_path / "a.png", b"one"), image(tmp_path / "a.png", b"one", "base64")
    assert await sent({"a": data, "b": [bare]}) == {"a": "data:image/png;base64,b25l", "b": ["b25l"]}


async def test_a_form_as_it_goes_over_the_wire(serve: Any, connect: Any, tmp_path: Path) -> None:
    large = bytes(range(256)) * 8000
    parts: tuple[tuple[str, str | LocalImage], ...] = (
        ("model", "gpt-image-1"),
        ("prompt", 'Größe "☕"\r\nand a line'),
        ("image[]", image(tmp_path / 'a b".png', b"one")),
        ("image[]", image(tmp_path / "ü.png", large)),
    )
    headers, body = await over_the_wire(serve, connect, Multipart(parts=parts), "POST")
    assert headers["Content-Length"] == str(len(body))
    whole = b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
    form: Any = BytesParser(policy=HTTP).parsebytes(whole)
    found = list(form.iter_parts())
    named = [(part.get_param("name", header="content-disposition"), part.get_filename()) for part in found]
    assert named == [("model", None), ("prompt", None), ("image[]", "a_b_.png"), ("image[]", "_.png")]
    assert [part.get_content_type() for part in found[2:]] == ["image/png"] * 2
    assert [part.get_payload(decode=True) for part in found] == [
        b"gpt-image-1",
        'Größe "☕"\r\nand a line'.encode(),
        b"one",
        large,
    ]


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_file_as_it_goes_over_the_wire(
    serve: Any, connect: Any, tmp_path: Path, method: Literal["POST", "PUT"]
) -> None:
    data = bytes(range(256)) * 8000
    headers, body = await over_the_wire(serve, connect, Bytes(image=image(tmp_path / "a.png", data)), method)
    assert (headers["Content-Type"], headers["Content-Length"]) == ("image/png", str(len(data)))
    assert body == data


@pytest.mark.parametrize("kind", ["json", "form", "file"])
async def test_a_file_changed_since_the_plan_is_not_sent(tmp_path: Path, kind: str) -> None:
    picture = image(tmp_path / "a.png", b"old")
    (tmp_path / "a.png").write_bytes(b"new")
    contents: dict[str, Content] = {
        "json": Json(value=chat(picture)),
        "form": Multipart(parts=(("image", picture),)),
        "file": Bytes(image=picture),
    }
    with pytest.raises(JobError, match=r"a\.png changed since the plan; run again") as caught:
        await encode(contents[kind])
    assert caught.value.code is Code.REFERENCE


async def test_half_a_surrogate_pair_in_a_form_is_refused() -> None:
    with pytest.raises(JobError, match="half a surrogate pair") as caught:
        await encode(Multipart(parts=(("prompt", "\ud800"),)))
    assert caught.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize("name", ["missing.png", "folder", "nul\0.png", "pipe", "device"])
async def test_a_file_that_cannot_be_read_is_a_reference_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    picture = LocalImage(path=f"{tmp_path}/{name}", sha256="0" * 64, media_type="image/png")
    with pytest.raises(JobError, match="cannot be read") as caught:
        await encode(Json(value=chat(picture)))
    assert caught.value.code is Code.REFERENCE


async def test_what_is_no_json_is_a_bug_and_not_a_job_error() -> None:
    with pytest.raises(TypeError, match="a set cannot travel in JSON"):
        await encode(Json(value={"x": {1}}))


LEAF = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["one", "two"]).map(Path)


@settings(max_examples=40)
@given(
    value=st.dictionaries(
        st.text(), st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
    )
)
def test_the_bytes_are_those_that_the_json_of_the_whole_would_have(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    pictures = {name: image(folder / name, name.encode() * 300, "base64") for name in ("one", "two")}

    def replaced(item: Any, by: Any) -> Any:
        if isinstance(item, dict):
            return {key: replaced(inner, by) for key, inner in item.items()}
        return [replaced(inner, by) for inner in item] if isinstance(item, list) else by(item)

    def as_text(leaf: Any) -> Any:
        return base64.b64encode(leaf.name.encode() * 300).decode() if isinstance(leaf, Path) else leaf

    asked = replaced(value, lambda leaf: pictures[leaf.name] if isinstance(leaf, Path) else leaf)
    whole = json.dumps(replaced(value, as_text), ensure_ascii=False, separators=(",", ":"))
    assert asyncio.run(body_of(asked, EncodedPhotos())) == whole.encode()


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 4 * PIECE + 2, ONE_WRITE])
async def test_a_picture_in_pieces_is_one_base64(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    picture = image(tmp_path / "a.png", data, "base64")
    assert await body_of({"a": picture, "b": "ö"}, EncodedPhotos()) == b'{"a":"%b","b":"\xc3\xb6"}' % base64.b64encode(
        data
    )


async def test_a_large_request_is_sent_whole(serve: Any, connect: Any, tmp_path: Path) -> None:
    picture = image(tmp_path / "a.png", os.urandom(3 << 20))
    headers, body = await over_the_wire(serve, connect, Json(value=chat(picture, picture)), "POST")
    assert headers["Content-Length"] == str(len(body))
    assert body == await body_of(chat(picture, picture), EncodedPhotos())


async def test_a_picture_is_read_once_for_all_jobs_that_use_it_at_once_or_in_a_row(tmp_path: Path) -> None:
    photos, picture = EncodedPhotos(), image(tmp_path / "a.png", os.urandom(1 << 20))
    await asyncio.gather(*(body_of(chat(picture), photos) for _ in range(10)))
    for _ in range(10):
        await body_of(chat(picture), photos)
    assert photos.counts == (20, 1)


async def test_no_more_is_held_than_the_bound(tmp_path: Path) -> None:
    photos = EncodedPhotos(bound=3000)
    pictures = [image(tmp_path / f"{n}.png", os.urandom(900)) for n in range(4)]  # 1200 as base64
    for picture in [*pictures, pictures[3], pictures[2], pictures[0]]:
        await body_of(chat(picture), photos)
    assert photos.counts == (7, 5)  # the last two were held, and the first no longer
    large = image(tmp_path / "large.png", os.urandom(KEPT // 16))
    for _ in range(2):
        await body_of(chat(large), photos)
    assert photos.counts == (9, 7)


async def test_what_a_request_is_sending_is_not_read_again_however_little_is_held(tmp_path: Path) -> None:
    photos, picture = EncodedPhotos(bound=0), image(tmp_path / "a.png", os.urandom(ONE_WRITE))
    first, _ = await encode_with(Json(value=chat(picture)), photos)
    second = await body_of(chat(picture), photos)
    assert isinstance(first, AsyncIterator)
    assert b"".join([piece async for piece in first]) == second
    assert photos.counts == (2, 1)


@pytest.mark.parametrize("change", ["written", "replaced", "removed", "emptied", "a pipe"])
async def test_a_picture_that_changes_while_it_is_in_use_is_not_sent_from_memory(tmp_path: Path, change: str) -> None:
    photos, path = EncodedPhotos(), tmp_path / "a.png"
    picture = image(path, b"old")
    await body_of(chat(picture), photos)
    if change == "written":
        path.write_bytes(b"new")
    elif change == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    if change == "replaced":
        path.write_bytes(b"new")
    elif change == "a pipe":
        os.mkfifo(path)
    with pytest.raises(JobError, match=r"a\.png") as caught:
        await body_of(chat(picture), photos)
    assert caught.value.code is Code.REFERENCE
    path.unlink(missing_ok=True)
    path.write_bytes(b"old")  # it is put back
    assert json.loads(await body_of({"a": picture}, photos)) == {"a": "data:image/png;base64,b2xk"}
