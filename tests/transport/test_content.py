"""What a request carries: JSON, forms and files, with local pictures put in only if they are what the plan saw."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING, Any, Literal

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Content, Finished, HttpRequest, Inline, Json, LocalImage, Multipart
from batchflux.transport.content import encode

if TYPE_CHECKING:
    from pathlib import Path


class Whole:
    """Reads any answer."""

    def feed(self, data: bytes) -> bool:
        return False

    def finish(self, *, complete: bool) -> Finished:
        return Finished(asset=Inline(data=b""))


def image(path: Path, data: bytes, encoding: Literal["data_url", "base64"] = "data_url") -> LocalImage:
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return LocalImage(path=str(path), sha256=digest, media_type="image/png", encoding=encoding)


def chat(*images: LocalImage) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *parts]}], "stream": True}


async def sent(body: dict[str, Any]) -> Any:
    data, headers = await encode(Json(value=body))
    assert headers == {"Content-Type": "application/json"}
    assert isinstance(data, bytes | io.BytesIO)
    return json.loads(data if isinstance(data, bytes) else data.getvalue())


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
