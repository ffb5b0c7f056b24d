"""What a request may say and how, what of it is refused with which sentence, and that nothing else comes of it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.gateway.orders import Form, Order, Picture, RefusalError
from batchflux.gateway.reading.bodies import parsed
from batchflux.gateway.reading.chat import chat
from batchflux.gateway.reading.images import Part, edit_form, edit_json, generation
from batchflux.gateway.reading.pictures import MAX_BYTES
from tests.gateway.shells.shapes import CUP, MUG, data_url, seen, system, texts, upload, user

OURS = "http://127.0.0.1:8700/images/1-abc.png"
REMOTE = "https://shop.example/mug.jpg"


def ours(link: str) -> bool:
    return link.startswith("http://127.0.0.1:8700/images/")


def talked(*messages: dict[str, Any], **rest: Any) -> tuple[Order, Form]:
    return chat({"messages": list(messages), **rest}, ours)


def answer(content: Any, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **rest}


def refusal(read: Any, *arguments: Any, **named: Any) -> RefusalError:
    with pytest.raises(RefusalError) as refused:
        read(*arguments, **named)
    assert refused.value.status == 400
    return refused.value


SIZED = [
    ({"size": "1024x1024"}, "1:1", "1:1"),
    ({"size": "1792x1024"}, "16:9", "16:9"),
    ({"size": "1000x700"}, "3:2", "3:2"),
    ({"size": "2100x900"}, "21:9", "21:9"),
    ({"size": "7:5"}, "7:5", "7:5"),
    ({"size": "auto"}, None, None),
    ({"aspect_ratio": "7:5"}, "7:5", None),
    ({"aspect_ratio": "7:5", "size": "auto"}, "7:5", None),
    ({"aspect_ratio": "16:9", "size": "1792x1024"}, "16:9", "16:9"),
    ({"width": 832, "height": 1248}, "2:3", "2:3"),
]


@pytest.mark.parametrize(("asked", "ratio", "note"), SIZED)
def test_size_becomes_the_nearest_ratio(asked: dict[str, Any], ratio: str | None, note: str | None) -> None:
    order, form = generation({"prompt": "a mug", **asked})
    assert order.fields == ({"aspect_ratio": ratio} if ratio else {})
    assert form.notes == ({"size": note} if note else {})


def test_job_fields_are_ordered_as_text() -> None:
    asked = {
        "seed": 7,
        "output_format": "jpg",
        "quality": "high",
        "background": "transparent",
        "negative_prompt": "text",
        "resolution": "2K",
        "safety_tolerance": 2,
        "prompt_upsampling": True,
    }
    order, _ = generation({"prompt": "a mug", **asked})
    assert order.fields == {**asked, "seed": "7", "safety_tolerance": "2", "prompt_upsampling": "true"}


def test_what_asks_for_nothing_passes() -> None:
    silent = {
        "user": "u1",
        "n": 1,
        "stream": False,
        "partial_images": 0,
        "moderation": "auto",
        "output_compression": 100,
        "background": "auto",
        "quality": "auto",
        "size": "auto",
        "seed": None,
        "mask": None,
        "image": [],
    }
    assert generation({"prompt": "a mug", **silent}) == (Order(prompt="a mug"), Form(inline=True))
    assert generation({"prompt": "a mug", "response_format": "url"})[1] == Form(inline=False)


@pytest.mark.parametrize(
    "image",
    [
        data_url(MUG),
        {"image_url": data_url(MUG)},
        {"image_url": {"url": data_url(MUG)}},
        base64.b64encode(MUG).decode(),
    ],
    ids=["data URL", "image_url", "image_url.url", "base64"],
)
def test_edit_in_json_takes_pictures_as_clients_write_them(image: Any) -> None:
    order, _ = edit_json({"prompt": "on marble", "images": [image, REMOTE]})
    assert order.images == (Picture(data=MUG), Picture(url=REMOTE))


def test_form_takes_links_beside_files() -> None:
    parts = (*texts(prompt="on marble", image=REMOTE, n="2", stream="true"), upload("image[1]", MUG))
    order, form = edit_form(parts)
    assert (order.images, order.count, form.stream) == ((Picture(url=REMOTE), Picture(data=MUG)), 2, True)


def test_last_message_is_the_prompt_and_its_pictures_the_references() -> None:
    said = [user("a red mug"), answer(f"![mug]({OURS})"), seen(f"on marble ![]({REMOTE})", data_url(MUG))]
    order, form = talked(*said, model="m?inline")
    assert order == Order(prompt="on marble", model="m", images=(Picture(url=REMOTE), Picture(data=MUG)))
    assert form == Form(shape="chat", inline=True)


EARLIER = [
    ([answer(f"Here it is.\n\n![a mug]({OURS})")], Picture(url=OURS), "an answer"),
    ([answer(f'> at work\n\n![]({OURS} "mug")')], Picture(url=OURS), "an answer"),
    ([answer(f"![mug]({data_url(MUG)})")], Picture(data=MUG), "an answer"),
    ([answer("", images=[{"type": "image_url", "image_url": {"url": data_url(MUG)}}])], Picture(data=MUG), "an answer"),
    ([answer([{"type": "image_url", "image_url": {"url": OURS}}])], Picture(url=OURS), "an answer"),
    ([seen("a mug", data_url(CUP), data_url(MUG)), answer("Which colour?")], Picture(data=MUG), "an earlier message"),
    ([seen("a mug", data_url(MUG)), answer(f"![news]({REMOTE})")], Picture(data=MUG), "an earlier message"),
]


@pytest.mark.parametrize(("before", "reference", "whose"), EARLIER)
def test_make_it_blue_means_the_last_picture(before: list[Any], reference: Picture, whose: str) -> None:
    order, form = talked(*before, user("make it blue"))
    assert (order.prompt, order.images) == ("make it blue", (reference,))
    assert form.notes == {"reference": f"the last picture of the conversation, of {whose}"}


def test_earlier_pictures_that_are_not_used_are_not_read() -> None:
    order, _ = talked(seen("a mug", "file:///etc/passwd"), seen("on marble", data_url(MUG)))
    assert order.images == (Picture(data=MUG),)


def test_greeting_within_a_conversation_is_a_prompt() -> None:
    assert talked(user("a mug"), answer("![](x)"), user("hi"))[0].prompt == "hi"


def _with(**asked: Any) -> tuple[Any, ...]:
    return (generation, {"prompt": "a mug", **asked})


def _chat(*messages: dict[str, Any], **rest: Any) -> tuple[Any, ...]:
    return (chat, {"messages": list(messages), **rest}, ours)


def _form(*parts: Part) -> tuple[Any, ...]:
    return (edit_form, (*texts(prompt="on marble"), *parts))


LINK = "allowed is an http:// or https:// URL, or a data URL (data:image/png;base64, and the picture in base64)."
REFUSED = [
    ((parsed, b"[]"), None, "The body must be a JSON object; found a list of 0."),
    ((parsed, b"\xff"), None, "The body must be JSON in UTF-8: it is none, or nested too deeply."),
    ((parsed, b"[" * 100_000), None, "The body must be JSON in UTF-8: it is none, or nested too deeply."),
    ((parsed, b'{"n": NaN}'), None, "The body must be JSON in UTF-8: it holds NaN, which is no number."),
    ((parsed, b'{"n": 1, "n": 2}'), None, 'The body must be JSON in UTF-8: the name "n" stands twice in one object.'),
    (
        (parsed, rb'{"prompt": "\ud83d"}'),
        None,
        "The body must be JSON in UTF-8: it holds half of a character, as \\ud83d alone; send whole characters.",
    ),
    ((generation, {}), "prompt", "prompt: found nothing; say what to make."),
    ((generation, {"prompt": " "}), "prompt", "prompt: found nothing; a job needs a prompt."),
    ((generation, {"prompt": 5}), "prompt", "prompt: found 5; allowed is text."),
    (
        (generation, {"prompt": "x" * 100_001}),
        "prompt",
        "prompt: found 100001 characters; allowed are at most 100000.",
    ),
    (_with(n=0), "n", "n: found 0; allowed is a whole number from 1 to 10."),
    (_with(n=True), "n", "n: found true; allowed is a whole number."),
    (_with(n=10**80), "n", "n: found a very long number; allowed is a whole number from 1 to 10."),
    (_with(stream="yes"), "stream", 'stream: found "yes"; allowed is true or false.'),
    (_with(response_format="png"), "response_format", 'response_format: found "png"; allowed is url or b64_json.'),
    (_with(seed=1.5), "seed", "seed: found 1.5; allowed is a whole number or text."),
    (_with(seed="x"), "seed", 'seed: found "x"; allowed is a whole number of at most 64 bits, as 42.'),
    (_with(quality=5), "quality", "quality: found 5; allowed is text."),
    (_with(user={}), "user", "user: found an object of 0; allowed is text."),
    (_with(model="a\nb"), "model", "model: found the character U+000A; allowed is text on one line."),
    (
        _with(safety_tolerance=9),
        "safety_tolerance",
        'safety_tolerance: found "9"; allowed is a whole number from 0 to 6.',
    ),
    (_with(size="big"), "size", 'size: found "big"; allowed is WIDTHxHEIGHT, as 1024x1536, a ratio, as 2:3, or auto.'),
    (_with(size="100x900"), "size", 'size: found "100x900"; allowed are shapes from 21:9 to 9:21.'),
    (
        _with(size="1024x1024", aspect_ratio="16:9"),
        "size",
        'size: "1024x1024" is 1:1, and aspect_ratio asks for 16:9; send one of them.',
    ),
    (
        _with(width=832),
        "width",
        "width: found width or height without the other, or beside size; send both, or size alone.",
    ),
    (
        _with(partial_images=2),
        "partial_images",
        "partial_images: found 2; pictures come whole; leave it out, or send 0.",
    ),
    (
        _with(moderation="low"),
        "moderation",
        'moderation: found "low"; leave it out, or set safety_tolerance, which providers carry.',
    ),
    (
        _with(output_compression=50),
        "output_compression",
        "output_compression: found 50; pictures are handed on as their provider made them; leave it out.",
    ),
    (
        _with(style="natural"),
        "style",
        'style: found "natural", which no provider carries; say in the prompt how it should look.',
    ),
    (
        _with(image="s3://shop/mug.jpg"),
        "image",
        'image: found "s3://shop/mug.jpg"; allowed is an http:// or https:// URL.',
    ),
    (_with(image="file:///etc/passwd"), "image", 'image: found "file:..."; allowed is an http:// or https:// URL.'),
    (
        _with(image="/etc/passwd"),
        "image",
        (f'image: found "/etc/passwd"; {LINK}'),
    ),
    (
        _with(image="data:text/html;base64,AAAA"),
        "image",
        (f'image: found "data:..."; {LINK}'),
    ),
    (
        _with(image=["data:image/png;base64,AAA"]),
        "image",
        "image: found base64 that cannot be decoded; send it whole, with its = at the end.",
    ),
    (_with(image="data:image/png;base64,"), "image", "image: found an empty picture; send the picture's bytes."),
    (_with(images=[REMOTE] * 17), "images", "images: found 17 pictures; allowed are at most 16."),
    (_with(images=[REMOTE] * 9, image=[REMOTE] * 9), "image", "image: found 18 pictures; allowed are at most 16."),
    (
        _with(images=[{"file_id": "file-1"}]),
        "images",
        (f"images: found an object of 1; {LINK}"),
    ),
    (
        _with(mask=data_url(MUG)),
        "mask",
        "mask: found a mask without a picture; send the picture that it belongs to as image.",
    ),
    ((edit_json, {"prompt": "x"}), "image", "image: found no picture to edit; send one to 16."),
    (_form(), "image", "image: found no picture to edit; send one to 16."),
    (_form(upload("image", b"")), "image", "image: found an empty picture; send the picture's bytes."),
    (_form(upload("image", MUG), *texts(n="many")), "n", 'n: found "many"; allowed is a whole number.'),
    (_form(upload("image", MUG), *texts(prompt="twice")), "prompt", "prompt: found it twice; send it once."),
    (_form(upload("image", MUG), upload("size", MUG)), "size", "size: found a file; allowed is text, and"),
    (
        _form(Part(name="image", data=b"\xff")),
        "image",
        "image: found bytes that are not UTF-8; send text.",
    ),
    (_form(*[upload("image[]", MUG)] * 17), "image", "image: found 17 pictures; allowed are at most 16."),
    (
        _form(upload("image", MUG), upload("mask", MUG), upload("mask", MUG)),
        "mask",
        "mask: found 2 masks; allowed is one.",
    ),
    (_chat(), "messages", "messages: found no message of the user at the end; say in one what to make."),
    ((chat, {}, ours), "messages", "messages: found nothing; allowed is a list."),
    (
        _chat(user("a mug"), answer("here")),
        "messages",
        "messages: found no message of the user at the end; say in one what to make.",
    ),
    (_chat(user("")), "messages[0].content", "messages[0].content: found no text; say what to make."),
    (
        _chat(seen("", data_url(MUG))),
        "messages[0].content",
        "messages[0].content: found no text; say what to make of the picture.",
    ),
    (
        _chat({"role": "boss", "content": "a mug"}),
        "messages[0].role",
        'messages[0].role: found "boss"; allowed is user, assistant, system, developer, tool or function.',
    ),
    (
        _chat(user([{"type": "input_audio"}])),
        "messages[0].content[0].type",
        'messages[0].content[0].type: found "input_audio"; allowed is text or image_url.',
    ),
    (
        _chat(user("a mug"), seen("it", "file:///x")),
        "messages[1]",
        'messages[1]: found "file:..."; allowed is an http:// or https:// URL.',
    ),
    (
        _chat(user("a mug"), tools=[{"type": "function"}]),
        "tools",
        "tools: found tools; a picture is made without any: turn them off for this model.",
    ),
    (
        _chat(user("a mug"), modalities=["image", "audio"]),
        "modalities",
        "modalities: found more than text and image; ask for these alone.",
    ),
    (
        _chat(user("a mug"), audio={"voice": "x"}),
        "audio",
        "audio: found an object of 1; a picture is made from the conversation alone; leave it out.",
    ),
    (
        _chat(user("a mug"), modalities=["text"]),
        "messages",
        "This gateway makes pictures, and bought none for this: modalities asks for no image.",
    ),
    (
        _chat(user("a mug"), response_format={"type": "json_object"}),
        "messages",
        "This gateway makes pictures, and bought none for this: response_format asks for JSON, which is text.",
    ),
    (
        _chat(user("### Task:\nGenerate a title")),
        "messages",
        (
            "This gateway makes pictures, and bought none for this: Open WebUI asks for a title, tags, follow-ups or a "
            "search, which is text. Set another model for it in the shell's settings, or turn it off there."
        ),
    ),
    (
        _chat(system("Be brief."), user("Hello!")),
        "messages",
        (
            'This gateway makes pictures, and bought none for this: "Hello!" is how a shell tries a connection: it '
            "works. Say what to make."
        ),
    ),
]


@pytest.mark.parametrize(("asked", "param", "sentence"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_refusal_says_what_and_where(asked: tuple[Any, ...], param: str | None, sentence: str) -> None:
    refused = refusal(*asked)
    assert refused.param == param
    assert refused.message.startswith(sentence)


def test_unknown_parameter_is_named_with_those_that_are() -> None:
    refused = refusal(generation, {"prompt": "a mug", "steps": 20})
    assert (refused.code, refused.param) == ("unknown_parameter", "steps")
    known = "aspect_ratio, background, image, images, mask, model, n, negative_prompt, output_format, prompt"
    assert refused.message.startswith(f'There is no parameter "steps" here; leave it out. Allowed are {known}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *(
            "model",
            "prompt",
            "n",
            "size",
            "aspect_ratio",
            "aspectRatio",
            "width",
            "height",
            "response_format",
            "stream",
        ),
        *("image", "images", "mask", "seed", "quality", "style", "background", "user", "partial_images", "moderation"),
        *("output_format", "safety_tolerance", "prompt_upsampling", "messages", "modalities", "tools", "temperature"),
    ]
)
LIKELY = st.sampled_from(
    [
        *("a mug", "1024x1536", "2:3", "auto", "url", "hd", "vivid", REMOTE, OURS, data_url(MUG), "file:///x", "data:"),
        *(1, 0, 7, True, [REMOTE], [], [user("a mug")], [seen("it", data_url(MUG))], ["image", "text"], [user(None)]),
        *([answer(f"![]({OURS})"), user("blue")], {"image_url": {"url": REMOTE}}, [{"role": "tool", "content": "x"}]),
    ]
)
BODIES = st.dictionaries(NAMES | st.text(max_size=8), LIKELY | JSON, max_size=8)


def outcome(read: Any, *arguments: Any) -> Any:
    """Return what is read, or the refusal; anything else that is raised fails the test."""
    try:
        return read(*arguments)
    except RefusalError as refused:
        return refused


@given(BODIES)
def test_any_body_is_an_order_or_a_refusal(body: dict[str, Any]) -> None:
    for made in (outcome(generation, body), outcome(edit_json, body), outcome(chat, body, ours)):
        if isinstance(made, RefusalError):
            assert (made.status, made.kind) == (400, "invalid_request_error")
            assert made.message.endswith(".")
        else:
            order, form = made
            assert order.prompt.strip()
            assert 1 <= order.count <= 10
            assert all(text.isascii() and text.isprintable() for text in form.notes.values())  # they become headers


PARTS = st.builds(
    Part,
    name=st.sampled_from(["image", "image[]", "mask", "prompt", "n", "size", "model", "seed", "stream"]) | st.text(),
    data=st.binary(max_size=20) | st.sampled_from([b"a mug", b"1", b"true", b"1024x1536", MUG, REMOTE.encode()]),
    filename=st.none() | st.text(max_size=4),
)


@given(st.lists(PARTS, max_size=8))
def test_any_form_is_an_order_or_a_refusal(parts: list[Part]) -> None:
    made = outcome(edit_form, parts)
    assert made.status == 400 if isinstance(made, RefusalError) else made[0].images


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_a_refusal(data: bytes) -> None:
    made = outcome(parsed, data)
    assert isinstance(made, dict) or made.code == "invalid_json"


def test_too_large_a_picture_is_not_decoded() -> None:
    content = "A" * (MAX_BYTES * 4 // 3 + 8)
    refused = refusal(generation, {"prompt": "a mug", "image": f"data:image/png;base64,{content}"})
    assert refused.message == "image: found a picture of 32000005 bytes; allowed are at most 32000000."
    assert refusal(edit_form, [*texts(prompt="x"), upload("image", bytes(MAX_BYTES + 1))]).param == "image"


@pytest.mark.parametrize(
    "bite", ["![", "![](http://", "![a](data:image/png;base64,A", "<!-- SYSTEM CONTEXT", "### ", "]("]
)
def test_long_texts_are_read_in_one_go(bite: str) -> None:
    refusal(talked, user(bite * (2_000_000 // len(bite))))
