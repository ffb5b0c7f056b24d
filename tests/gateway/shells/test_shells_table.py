"""Each shell's request to a gateway, answered in the form that this shell takes, and paid as often as it should be."""

from __future__ import annotations

import asyncio
import base64
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp

from batchflux.testing.bank import picture_of
from tests.gateway.shells.conftest import GPT, RELAYED, Gate
from tests.gateway.shells.shapes import CHAT, CUP, EDITS, MUG, PHOTO, PICTURES, Shape, user
from tests.gateway.shells.takers import TAKERS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tests.gateway.shells.takers import Answer, Seen

_numbers = itertools.count(1)


def name_of(shape: Shape) -> str:
    return f"s{PICTURES.index(shape)}x{next(_numbers)}"


def takes(shape: Shape, answer: Answer) -> Seen:
    body = shape.body or {}
    kind = "images" if shape.path != CHAT else "chat" if body.get("stream") else "whole"
    return TAKERS[shape.sender, kind](answer)


def model_of(shape: Shape) -> str:
    """Return a model that carries what the shape asks for: the relay's has no quality, and no ratio beside a file."""
    names = {*(shape.body or {}), *(part.name for part in shape.parts)}
    chosen = names & {"quality", "background", "mask"} or (shape.path == EDITS and "size" in names)
    return GPT if chosen and "style" not in names else RELAYED


def count_of(shape: Shape) -> int:
    return int((shape.body or {}).get("n", 1))


FIRST = {shape.sender + shape.path: shape for shape in reversed(PICTURES) if "HD" not in shape.case}.values()
MADE = [shape for shape in PICTURES if "HD" not in shape.case]  # hd is ordered as it is: neither model here knows it


async def each(shapes: Iterable[Shape], check: Callable[[aiohttp.ClientSession, Shape], Awaitable[None]]) -> None:
    """Check all shapes at once; the test fails with the names of those that fail."""
    named = list(shapes)
    async with aiohttp.ClientSession() as session:
        ends = await asyncio.gather(*(check(session, shape) for shape in named), return_exceptions=True)
    failed = [(shape.name, end) for shape, end in zip(named, ends, strict=True) if end is not None]
    assert not failed, failed[0][1]


async def test_shells_get_their_pictures(gate: Gate) -> None:
    async def check(session: aiohttp.ClientSession, shape: Shape) -> None:
        name = name_of(shape)
        answer = await gate.send(session, shape, f"job {name} #b64", model_of(shape))
        seen = takes(shape, answer)
        assert not seen.error
        pictures = [*seen.pictures, *[await gate.fetched(session, link) for link in seen.links]]
        assert pictures == [picture_of(name)] * count_of(shape), shape.name
        assert gate.bank.billed[name] == count_of(shape)
        sent = str([call.body for call in gate.bank.seen if call.name == name])
        for picture in (MUG, CUP, PHOTO):
            coded = base64.b64encode(picture).decode()
            asked = coded in str(shape.body) or picture in [part.data for part in shape.parts]
            assert (coded in sent) == asked, f"{shape.name}: the wrong references went out"

    await each(MADE, check)


async def test_shells_show_why_there_is_no_picture(gate: Gate) -> None:
    async def check(session: aiohttp.ClientSession, shape: Shape) -> None:
        name = name_of(shape)
        refused = await gate.send(session, shape, f"job {name} #moderated", model_of(shape))
        lost = await gate.send(session, shape, f"job {name}l #lost", model_of(shape))
        assert not gate.bank.billed[name]
        assert gate.bank.billed[f"{name}l"] == count_of(shape), lost.body
        for answer, words in ((refused, "moderation"), (lost, "may have been billed")):
            seen = takes(shape, answer)
            told = seen.error or seen.text  # NextChat passes over frames of errors, and shows the words before them
            assert words in told or (shape.sender == "Open WebUI" and told == "[ERROR: 400]"), shape.name
            assert answer.status in {200, 400}, "what may be billed is nothing that a client sends again"

    await each(FIRST, check)


async def test_what_comes_twice_is_paid_once_and_again_is_another_picture(gate: Gate) -> None:
    gate.bank.held = lambda: True

    async def check(session: aiohttp.ClientSession, shape: Shape) -> None:
        name, count = name_of(shape), count_of(shape)
        prompt, model = f"job {name} #b64", model_of(shape)
        twice = [asyncio.create_task(gate.send(session, shape, prompt, model, retry)) for retry in (0, 1)]
        answers = await asyncio.gather(*twice)
        assert gate.bank.billed[name] == count
        answers.append(await gate.send(session, shape, prompt, model))
        assert gate.bank.billed[name] == 2 * count, f"{shape.name}: whoever asks again wants another picture"
        answers.append(await gate.send(session, shape, prompt, model, 1))
        assert gate.bank.billed[name] == 2 * count, f"{shape.name}: a client's retry was paid"
        assert not any(takes(shape, answer).error for answer in answers)
        if not (shape.body or {}).get("stream"):  # the headers of a stream leave before anybody knows
            joined = [answer.headers.get("x-batchflux-joined") for answer in answers]
            assert (joined.count("true"), joined[2], joined[3]) == (2, None, "true"), shape.name

    checking = asyncio.create_task(each(FIRST, check))
    while not checking.done() and await asyncio.to_thread(gate.number, "waiting") < 2 * len(FIRST):  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0.01)
    gate.bank.held = None
    await checking


async def test_make_it_blue_is_said_of_the_last_picture(gate: Gate) -> None:
    chat = next(shape for shape in PICTURES if shape.name == "NextChat: chat")
    async with aiohttp.ClientSession() as session:
        first = takes(chat, await gate.send(session, chat, "job b1 #link", RELAYED))
        said = [user("job b1 #link"), {"role": "assistant", "content": first.text}, user("job b2 #link make it blue")]
        again = replace(chat, body={**(chat.body or {}), "messages": said})
        answer = await gate.send(session, again, "", RELAYED)
        second = takes(again, answer)
        assert await gate.fetched(session, second.links[0]) == picture_of("b2")
    assert answer.headers["x-batchflux-reference"] == "the last picture of the conversation, of an answer"
    call = next(call for call in gate.bank.seen if call.name == "b2")
    assert base64.b64encode(picture_of("b1")).decode() in str(call.body)
    assert "make it blue" in call.text
