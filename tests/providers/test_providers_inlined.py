"""Pictures of many kilobytes in answers: found wherever a small one is, and taken for no more than it is."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import Inline, Link, Reference
from batchflux.providers.answers.inlined import LONG, Inlined
from batchflux.providers.answers.reading import AnswerReader
from tests.providers.test_providers_any_shape import B64, BOTH, FOUND, MADE, NONE, body_of, chat, read, said, sse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Job


def picture(size: int, seed: int = 1) -> bytes:
    """Return bytes that begin as a PNG does."""
    return b"\x89PNG\r\n\x1a\n" + random.Random(seed).randbytes(size - 8)


def text_of(data: bytes, how: str = "plain") -> str:
    """Return bytes as base64, as relays write it."""
    text = base64.b64encode(data).decode()
    match how:
        case "for URLs":
            return text.replace("+", "-").replace("/", "_")
        case "unpadded":
            return text.rstrip("=")
        case "wrapped":
            return "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    return text


LARGE = picture(60_000)


@pytest.mark.parametrize(("size", "how"), [(60_000, "plain"), (60_001, "plain"), (60_002, "for URLs")])
def test_a_large_picture_is_found_wherever_a_small_one_is(
    answer: Callable[..., Any], make_job: Callable[..., Job], size: int, how: str
) -> None:
    data = picture(size)
    shapes = {name: shape for name, (shape, *_) in (*FOUND.items(), *NONE.items())}
    tried = [(name, shape) for name, shape in shapes.items() if B64.encode() in body_of(shape)]
    assert len(tried) > 30
    for name, shape in tried:
        small = body_of(shape)
        large = small.replace(B64.encode(), text_of(data, how).encode())
        for complete in (True, False):
            got = read(answer, make_job(images=BOTH), large, complete=complete)
            wanted = read(answer, make_job(images=BOTH), small, complete=complete)
            if isinstance(wanted, JobError):
                assert (got.code, got.message) == (wanted.code, wanted.message), name
                assert got.answer in (None, large)
            else:
                assert got == (Inline(data=data) if wanted == MADE else wanted), name


PARTS = (
    *("", "here: ", "![image](", "![image](data:image/png;base64,", '<img src="data:image/png;base64,', "```\n", "\n"),
    *("data:image/png;base64,", ")", '">', "\n\nDone", " 完成", "==", "[下载](https://cdn.example/a.png)"),
    *("https://x.example/", '{"a": "', '"}'),
)


TEXTS = st.lists(st.sampled_from(PARTS), max_size=3).map("".join)
SHAPES: Mapping[str, Callable[[str, list[str]], bytes]] = {
    "json": lambda text, _: body_of(chat(text)),
    "said": lambda _, pieces: body_of(said(*pieces)),
    "text": lambda text, _: text.encode(),
    "key": lambda text, _: body_of({"data": [{"b64_json": text}]}),
    "escaped": lambda text, _: body_of(json.dumps({"output": {"image": text}}).replace("/", "\\/")),
}


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_large_picture_is_read_as_a_small_one(
    answer: Callable[..., Any], make_job: Callable[..., Job], data: st.DataObject
) -> None:
    before, after = data.draw(TEXTS), data.draw(TEXTS)
    cuts = data.draw(st.lists(st.floats(0, 1), max_size=3))
    how = data.draw(st.sampled_from(["plain", "for URLs", "unpadded", "wrapped"]))
    shape, complete = data.draw(st.sampled_from(sorted(SHAPES))), data.draw(st.booleans())

    def outcome(made: bytes) -> Any:
        text = before + text_of(made, how) + after
        places = [0, *sorted(int(cut * len(text)) for cut in cuts), len(text)]
        body = SHAPES[shape](text, [text[begin:end] for begin, end in itertools.pairwise(places)])
        got = answer(make_job(), [body[at : at + 30_000] for at in range(0, len(body), 30_000)], complete=complete)
        if isinstance(got, Inline):
            return "the picture" if got.data == made else "other bytes"
        return got.code if isinstance(got, JobError) else got

    assert outcome(LARGE) == outcome(picture(12_000))


def test_pictures_that_come_twice_or_after_others_are_told_apart(
    answer: Callable[..., Any], make_job: Callable[..., Job]
) -> None:
    other, made = (f"![image](data:image/png;base64,{text_of(data)})" for data in (picture(70_000, 2), LARGE))
    sources = Reference(
        source="a", path="/a", sha256=hashlib.sha256(picture(70_000, 2)).hexdigest(), media_type="image/png"
    )
    for texts in ((other, made), (made, made), (made, other, made)):
        assert answer(make_job(), body_of(said(*texts))) == Inline(data=LARGE)
        assert answer(make_job(images=(sources,)), body_of(said(*reversed(texts)))) == Inline(data=LARGE)
    assert answer(make_job(images=(sources,)), body_of(said(other))).code is Code.ECHOED_INPUT
    final = sse(*({"type": kind, "result": text_of(LARGE)} for kind in ("item.done", "completed")))
    assert answer(make_job(), final.encode()) == Inline(data=LARGE)


def test_a_link_that_holds_a_picture_is_no_link_for_having_been_cut(
    answer: Callable[..., Any], make_job: Callable[..., Job]
) -> None:
    link = f"https://cdn.example/{text_of(LARGE)}.png"
    for shape in ({"data": [{"url": link}]}, chat(f"![image]({link})")):
        got = answer(make_job(), body_of(shape))
        assert (got.code, got.final) == (Code.BAD_ANSWER, True), got
        assert got.answer == body_of(shape)
        assert "link of more than" in got.message
    assert answer(make_job(), body_of(chat(f"{text_of(LARGE)} https://cdn.example/a.png"))) != Link(url=link)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_what_is_cut_out_is_put_back(data: st.DataObject) -> None:
    words = st.text(max_size=40) | st.sampled_from(["A" * (LONG + 1), "/9j/", "=", '"'])
    pictures = st.integers(0, 2).map(lambda seed: text_of(picture(49_000 + 7_000 * seed, seed)))
    text = "".join(data.draw(st.lists(words | pictures, max_size=5)))
    inlined = Inlined()
    cut = inlined.cut(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")
    assert inlined.whole(cut) == text
    assert inlined.whole(inlined.shortened(cut * 2)) == text * 2


@pytest.mark.parametrize(("frame", "times"), [(None, 2.0), (1 << 30, 2.0), (16_000, 3.5), (1000, 3.7)])
def test_little_more_than_the_answer_and_its_picture_is_held(
    make_job: Callable[..., Job], frame: int | None, times: float
) -> None:
    made = picture(3_000_000)
    text = f"![image](data:image/png;base64,{text_of(made)})"
    pieces = [text[at : at + (frame or 0)] for at in range(0, len(text), frame or len(text))]
    body = body_of({"data": [{"b64_json": text_of(made)}]} if frame is None else said(*pieces))
    reader = AnswerReader(make_job(), 200, {})
    reader.feed(body)
    tracemalloc.start()
    try:
        assert reader.picture(complete=True).asset == Inline(data=made)
        assert tracemalloc.get_traced_memory()[1] < times * len(body)
    finally:
        tracemalloc.stop()
