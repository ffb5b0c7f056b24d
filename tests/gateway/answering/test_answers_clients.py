"""What OpenAI's own client reads of our answers."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from openai import APIError, BadRequestError
from openai.types import ImageEditCompletedEvent, ImageGenCompletedEvent, ImagesResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from batchflux.gateway.orders import RefusalError
from batchflux.testing.bank import picture_of
from tests.gateway.answering.conftest import shot_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gateway.answering.conftest import Stand

MESSAGES: list[Any] = [{"role": "user", "content": "a mug"}]
GONE = RefusalError(400, "content_policy_violation", "The provider's moderation refused this.")


def same(encoded: str | None, stand: Stand, place: int = 0) -> bool:
    assert encoded is not None
    with open(stand.shots[place].path, "rb") as file:  # noqa: PTH123  asynchronous tests have no other way to say so
        return base64.b64decode(encoded, validate=True) == file.read()


def strict(event: Any) -> Any:
    """Validate what the client built without looking: it takes any JSON for its types."""
    return type(event).model_validate(event.model_dump(warnings=False), strict=True)


async def test_a_document_has_pictures_as_base64(stand: Stand, tmp_path: Path) -> None:
    stand.shots.append(shot_of(tmp_path, "large", 300))  # 270 KB: sent in pieces
    answer = strict(await stand.client.images.generate(model="flux", prompt="a mug", n=2))
    assert isinstance(answer, ImagesResponse)
    assert answer.data is not None
    assert same(answer.data[0].b64_json, stand)
    assert same(answer.data[1].b64_json, stand, 1)
    assert (answer.data[0].revised_prompt, answer.data[0].model_extra) == ('a "mug"\n杯子', {"seed": 7})
    assert (answer.output_format, answer.size) == ("png", None)  # the sizes differ


async def test_a_document_has_pictures_as_links(stand: Stand) -> None:
    stand.inline = False
    raw = await stand.client.images.with_raw_response.generate(model="flux", prompt="a mug")
    answer = strict(raw.parse())
    assert (answer.data[0].url, answer.data[0].b64_json) == ("http://pictures.test/images/mug.png", None)
    assert (answer.size, raw.headers["x-batchflux-jobs"]) == ("48x48", "a")


async def test_a_stream_of_images_has_an_event_for_each(stand: Stand, tmp_path: Path) -> None:
    stand.shots.append(shot_of(tmp_path, "large", 300))
    stand.ready.set()
    events = await stand.client.images.generate(model="flux", prompt="a mug", n=2, stream=True)
    first, second = [strict(event) async for event in events]
    assert isinstance(first, ImageGenCompletedEvent)
    assert same(first.b64_json, stand)
    assert same(second.b64_json, stand, 1)
    assert (first.size, first.output_format, first.usage.total_tokens) == ("48x48", "png", 0)


async def test_a_stream_of_edits_is_named_so(stand: Stand) -> None:
    stand.ready.set()
    events = await stand.client.images.edit(model="flux", prompt="red", image=b"png", stream=True)
    (only,) = [strict(event) async for event in events]
    assert isinstance(only, ImageEditCompletedEvent)
    assert same(only.b64_json, stand)


async def test_a_stream_of_images_waits_with_comments_and_refuses_with_an_error(stand: Stand) -> None:
    stand.refuses = GONE
    body = {"model": "flux", "prompt": "a mug", "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{stand.url}/v1/images/generations", json=body) as got:
        assert [await got.content.readline() for _ in range(4)] == [b": waiting\n", b"\n"] * 2
        stand.ready.set()
        assert b"event: error\n" in await got.content.read()
    events = await stand.client.images.generate(**body)
    with pytest.raises(APIError, match="moderation refused") as caught:
        await anext(events)
    assert caught.value.code == "content_policy_violation"


async def test_a_completion_is_markdown_and_images(stand: Stand) -> None:
    stand.inline = False
    answer = strict(await stand.client.chat.completions.create(model="flux", messages=MESSAGES))
    assert isinstance(answer, ChatCompletion)
    message = answer.choices[0].message
    assert message.content == "![image](http://pictures.test/images/mug.png)"
    assert message.model_extra is not None
    assert message.model_extra["images"][0]["image_url"]["url"] == "http://pictures.test/images/mug.png"
    assert (answer.choices[0].finish_reason, answer.id[:9]) == ("stop", "chatcmpl-")


async def test_a_completion_may_hold_the_pictures_themselves(stand: Stand, tmp_path: Path) -> None:
    stand.shots.append(shot_of(tmp_path, "other"))
    message = (await stand.client.chat.completions.create(model="flux", messages=MESSAGES)).choices[0].message
    first, second = message.content.split("\n\n")
    for place, text in enumerate((first, second)):
        assert text.startswith("![image](data:image/png;base64,")
        assert same(text[31:-1], stand, place)
        assert message.images[place]["image_url"]["url"] == text[9:-1]


async def test_a_chat_begins_at_once_tells_what_it_waits_for_and_ends_with_one_picture(stand: Stand) -> None:
    stand.inline = False
    stream = await stand.client.chat.completions.create(model="flux", messages=MESSAGES, stream=True)
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    chunks: list[ChatCompletionChunk] = [strict(await anext(stream))]
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == (
        "assistant",
        "> making 1 picture\n\n",
    )
    stand.doing = "waiting for\nthe limit"
    while not (said := str(chunks[-1].choices[0].delta.content)).startswith("> waiting for the limit ("):
        assert said.startswith("> making 1 picture")  # it may have been said again meanwhile
        chunks.append(strict(await anext(stream)))
    chunks.append(strict(await anext(stream)))  # says it again, for it has been a while
    stand.ready.set()
    chunks += [strict(chunk) async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.endswith("\n\n![image](http://pictures.test/images/mug.png)")
    assert (text.count("!["), chunks[-1].choices[0].finish_reason) == (1, "stop")
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_chat_says_a_refusal_in_words_and_as_an_error(stand: Stand) -> None:
    stand.refuses = GONE
    stand.ready.set()
    stream = await stand.client.chat.completions.create(model="flux", messages=MESSAGES, stream=True)
    words = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
    assert words[-1] == "**The provider's moderation refused this.** (content_policy_violation)"
    with pytest.raises(APIError, match="moderation refused"):
        await anext(stream)


async def test_a_picture_that_is_gone_is_said_before_and_within_a_stream(stand: Stand) -> None:
    os.truncate(stand.shots[0].path, 10)
    with pytest.raises(BadRequestError, match="not there any more"):
        await stand.client.images.generate(model="flux", prompt="a mug")
    stream = await stand.client.chat.completions.create(model="flux", messages=MESSAGES, stream=True)
    words = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
    assert "(picture_gone)" in words[-1]
    with pytest.raises(APIError, match="not there any more"):
        await anext(stream)


async def test_a_client_that_leaves_ends_nothing_that_is_being_made(stand: Stand) -> None:
    stream = await stand.client.chat.completions.create(model="flux", messages=MESSAGES, stream=True)
    await anext(stream)
    await stream.close()
    stand.ready.set()
    await stand.client.images.generate(model="flux", prompt="a mug")
    assert stand.finished == 2


@pytest.mark.parametrize("side", [48, 400])  # at once, and in pieces
async def test_a_picture_is_sent_as_it_is(stand: Stand, tmp_path: Path, side: int) -> None:
    stand.shots = [shot_of(tmp_path, "one", side)]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{stand.url}/picture") as answer:
            assert await answer.read() == picture_of("one", side)
            assert (answer.content_type, answer.headers["Cache-Control"]) == ("image/png", "private")
        async with session.head(f"{stand.url}/picture") as answer:
            assert (await answer.read(), answer.headers["Content-Length"]) == (b"", str(stand.shots[0].bytes))
        (tmp_path / "one.png").unlink()
        async with session.get(f"{stand.url}/picture") as answer:
            assert answer.status == 404


@pytest.mark.parametrize("path", ["picture", "v1/images/generations", "v1/chat/completions"])
async def test_a_client_that_leaves_in_the_midst_is_no_fault(
    stand: Stand, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    stand.shots = [shot_of(tmp_path, "vast", 1800)]  # 10 MB: more than lies between the two
    stand.ready.set()
    method, body = ("GET", None) if path == "picture" else ("POST", {"stream": path.endswith("completions")})
    async with aiohttp.ClientSession() as session:
        async with session.request(method, f"{stand.url}/{path}", json=body) as answer:
            assert await answer.content.readany()
            answer.close()
        async with session.get(f"{stand.url}/nowhere") as answer:  # it goes on
            assert answer.status == 404
        await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]
