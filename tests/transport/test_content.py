"""Local pictures in a request: put in as data: URLs as it leaves, and only if they are what the plan saw."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import LocalImage
from batchflux.transport.body import encode

if TYPE_CHECKING:
    from pathlib import Path


def image(path: Path, data: bytes) -> LocalImage:
    path.write_bytes(data)
    return LocalImage(path=str(path), sha256=hashlib.sha256(data).hexdigest(), media_type="image/png")


def chat(*images: LocalImage) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, *parts]}], "stream": True}


async def sent(body: dict[str, Any]) -> Any:
    data = await encode(body)
    return json.loads(data if isinstance(data, bytes) else data.getvalue())


@pytest.mark.parametrize("size", [0, 1, 1000, 3 << 20])
async def test_the_bytes_travel_as_data_urls(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    one, two = image(tmp_path / "a b.png", data[:size]), image(tmp_path / "b.png", b"two")
    content = (await sent(chat(one, two, one)))["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in content[1:]]
    assert urls[0] == urls[2] == "data:image/png;base64," + base64.b64encode(data[:size]).decode()
    assert urls[1] == "data:image/png;base64,dHdv"
    assert content[0] == {"type": "text", "text": "x"}


async def test_a_file_changed_since_the_plan_is_not_sent(tmp_path: Path) -> None:
    picture = image(tmp_path / "a.png", b"old")
    (tmp_path / "a.png").write_bytes(b"new")
    with pytest.raises(JobError, match=r"a\.png changed since the plan; run again") as caught:
        await encode(chat(picture))
    assert caught.value.code is Code.REFERENCE


@pytest.mark.parametrize("name", ["missing.png", "folder", "nul\0.png", "pipe", "device"])
async def test_a_file_that_cannot_be_read_is_a_reference_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    picture = LocalImage(path=f"{tmp_path}/{name}", sha256="0" * 64, media_type="image/png")
    with pytest.raises(JobError, match="cannot be read") as caught:
        await encode(chat(picture))
    assert caught.value.code is Code.REFERENCE


async def test_what_is_no_json_is_a_bug_and_not_a_job_error() -> None:
    with pytest.raises(TypeError, match="a set cannot travel in JSON"):
        await encode({"x": {1}})
