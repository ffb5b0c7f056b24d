"""Each shell's request to a gateway, and its answer in the form that this shell takes: paid as often as it should be."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batchflux.testing.bank import picture_of
from tests.gateway.shells.conftest import GPT, RELAYED, Gate
from tests.gateway.shells.shapes import CHAT, CUP, EDITS, MUG, PHOTO, PICTURES, Shape
from tests.gateway.shells.takers import TAKERS

if TYPE_CHECKING:
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


@pytest.mark.parametrize("shape", PICTURES, ids=lambda shape: shape.name)
async def test_shell_gets_its_picture(gate: Gate, shape: Shape) -> None:
    if shape.case == "DALL·E 3, wide and HD":
        pytest.skip("hd is ordered as it is, and neither model of this manifest knows it")
    name = name_of(shape)
    async with aiohttp.ClientSession() as session:
        answer = await gate.send(session, shape, f"job {name} #b64", model_of(shape))
        seen = takes(shape, answer)
        assert not seen.error
        pictures = [*seen.pictures, *[await gate.fetched(session, link) for link in seen.links]]
    assert pictures == [picture_of(name)] * count_of(shape)
    assert gate.bank.billed[name] == count_of(shape)
    sent = json.dumps([str(call.body) for call in gate.bank.seen if call.name == name])
    for picture in (MUG, CUP, PHOTO):
        asked = str(shape.body) + str([part.data for part in shape.parts])
        coded = base64.b64encode(picture).decode()
        assert (coded in sent) == (coded in asked or str(picture) in asked)


@pytest.mark.parametrize("shape", FIRST, ids=lambda shape: shape.name)
async def test_shell_shows_why_there_is_no_picture(gate: Gate, shape: Shape) -> None:
    name = name_of(shape)
    async with aiohttp.ClientSession() as session:
        refused = await gate.send(session, shape, f"job {name} #moderated", model_of(shape))
        lost = await gate.send(session, shape, f"job {name}l #lost", model_of(shape))
    assert not gate.bank.billed[name]
    assert gate.bank.billed[f"{name}l"] == count_of(shape)
    for answer, words in ((refused, "moderation"), (lost, "billed")):
        error = takes(shape, answer).error
        assert words in error if "Open WebUI: a" not in shape.name and "Open WebUI: an" not in shape.name else error
        assert answer.status in {200, 400}, "what may be billed is nothing that a client sends again"


@pytest.mark.parametrize("shape", FIRST, ids=lambda shape: shape.name)
async def test_request_that_comes_twice_is_paid_once_and_again_is_another_picture(gate: Gate, shape: Shape) -> None:
    name, count = name_of(shape), count_of(shape)
    held = True
    gate.bank.held = lambda: held
    async with aiohttp.ClientSession() as session:
        prompt, model = f"job {name} #b64", model_of(shape)
        twice = [asyncio.create_task(gate.send(session, shape, prompt, model, retry)) for retry in (0, 1)]
        while gate.bank.posts[name] < count:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        held = False
        answers = await asyncio.gather(*twice)
        assert gate.bank.billed[name] == count
        answers.append(await gate.send(session, shape, prompt, model))
        assert gate.bank.billed[name] == 2 * count
        answers.append(await gate.send(session, shape, prompt, model, 1))
        assert gate.bank.billed[name] == 2 * count
    assert not any(takes(shape, answer).error for answer in answers)
    joined = [answer.headers.get("x-batchflux-joined") for answer in answers]
    assert (joined.count("true"), joined[2], joined[3]) == (2, None, "true")
