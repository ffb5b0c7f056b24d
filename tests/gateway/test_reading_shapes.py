"""Every recorded request of a shell becomes exactly one order and one form of answer, or is refused as a chore."""

from __future__ import annotations

from typing import Any

import pytest

from batchflux.gateway.orders import Form, Order, Picture, RefusalError
from batchflux.gateway.reading.bodies import parsed
from batchflux.gateway.reading.chat import chat
from batchflux.gateway.reading.images import edit_form, edit_json, generation
from tests.gateway.shells.shapes import CHAT, CHORES, CUP, GENERATIONS, MASK, MODEL, MUG, PHOTO, PICTURES, Shape

MARBLE = {"prompt": "on marble", "model": MODEL, "images": (Picture(data=MUG),)}
BOTH = {"prompt": "both on marble", "model": MODEL, "images": (Picture(data=MUG), Picture(data=CUP))}
RED = {"prompt": "a red mug", "model": MODEL}
SQUARE, WIDE, HIGH, TALL = "1:1", "16:9", "2:3", "9:16"
SAMPLING = "frequency_penalty, presence_penalty, temperature, top_p"


def read(shape: Shape) -> tuple[Order, Form]:
    if shape.parts:
        return edit_form(shape.parts)
    body = parsed(shape.json())
    if shape.path == CHAT:
        return chat(body, lambda link: "/images/" in link)
    return generation(body) if shape.path == GENERATIONS else edit_json(body)


def images(order: dict[str, Any], *, stream: bool = False, **notes: str) -> tuple[Order, Form]:
    return Order(**order), Form(inline=True, stream=stream, notes=notes)


def talk(order: dict[str, Any], *, inline: bool = False, stream: bool = True, **notes: str) -> tuple[Order, Form]:
    return Order(**order), Form(shape="chat", inline=inline, stream=stream, notes=notes)


DALLE = {**RED, "model": "dall-e-3"}
EXPECTED = {
    "NextChat: DALL·E 3": images({**DALLE, "fields": {"aspect_ratio": SQUARE}}, size=SQUARE, dropped="style, quality"),
    "NextChat: DALL·E 3, wide and HD": images(
        {**DALLE, "fields": {"aspect_ratio": WIDE, "quality": "hd"}}, size=WIDE, dropped="style"
    ),
    "NextChat: chat": talk(RED, dropped=SAMPLING),
    "NextChat: chat with a photo": talk(
        {**MARBLE, "images": (Picture(data=PHOTO),)},
        dropped="frequency_penalty, max_tokens, presence_penalty, temperature, top_p, system prompt",
    ),
    "LobeHub: a picture": images({**RED, "fields": {"aspect_ratio": WIDE, "seed": "7"}}),
    "LobeHub: a picture of DALL·E 3": images({**DALLE, "fields": {"aspect_ratio": WIDE}}, size=WIDE),
    "LobeHub: an edit": images({**MARBLE, "model": "gpt-image-1"}, dropped="input_fidelity"),
    "LobeHub: an edit of two": images(BOTH),
    "LobeHub: a picture by chat": talk(MARBLE, inline=True, stream=False),
    "LobeHub: chat": talk(MARBLE, dropped="stream_options, temperature, top_p"),
    "Open WebUI: a picture": images({**RED, "fields": {"aspect_ratio": SQUARE}}, size=SQUARE),
    "Open WebUI: a picture of GPT Image": images({**RED, "model": "gpt-image-1", "count": 2}),
    "Open WebUI: an edit": images(MARBLE),
    "Open WebUI: an edit of two": images({**BOTH, "fields": {"aspect_ratio": HIGH}}, size=HIGH),
    "Open WebUI: chat": talk(MARBLE),
    "Cherry Studio: a picture": images(
        {**RED, "count": 2, "fields": {"aspect_ratio": "3:2", "quality": "high"}}, size="3:2"
    ),
    "Cherry Studio: an edit of two": images({**BOTH, "fields": {"background": "opaque"}}),
    "Cherry Studio: chat": talk(MARBLE, dropped="stream_options, temperature, system prompt"),
    "SillyTavern: DALL·E 3": images({**DALLE, "fields": {"aspect_ratio": TALL}}, size=TALL, dropped="style, quality"),
    "SillyTavern: chat": talk(
        MARBLE,
        dropped="frequency_penalty, logit_bias, max_tokens, presence_penalty, temperature, top_p, system prompt",
    ),
    "OpenAI SDK: generate": images({**RED, "count": 2, "fields": {"aspect_ratio": HIGH, "quality": "high"}}, size=HIGH),
    "OpenAI SDK: generate, streamed": images(RED, stream=True),
    "OpenAI SDK: edit": images(MARBLE),
    "OpenAI SDK: edit two with a mask": images({**BOTH, "prompt": "on marble", "mask": Picture(data=MASK)}),
}


@pytest.mark.parametrize("shape", PICTURES, ids=lambda shape: shape.name)
def test_shape_becomes_its_order(shape: Shape) -> None:
    assert read(shape) == EXPECTED[shape.name]


def test_every_shape_is_expected() -> None:
    assert [shape.name for shape in PICTURES] == list(EXPECTED)


@pytest.mark.parametrize("shape", CHORES, ids=lambda shape: shape.name)
def test_chore_buys_nothing(shape: Shape) -> None:
    with pytest.raises(RefusalError) as refused:
        read(shape)
    assert (refused.value.status, refused.value.code) == (400, "not_a_picture")
