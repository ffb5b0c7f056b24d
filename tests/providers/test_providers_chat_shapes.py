"""Every shape that a relay sends in a chat stream, at every packet boundary."""

# The relays' words come in full-width punctuation.
# ruff: noqa: RUF001

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import Inline, Link, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

REF = "https://photos.example/in/mug%20(1).jpg?v=1&w=2"
OUT = "https://cdn.example/out/a%E4%B8%AD(1).png?X-Sig=abc%2Fdef&e=1"
OUT2 = "https://cdn.example/out/download?id=77"
PHOTO = b"\xff\xd8the uploaded photo\xff\xd9" * 9
MADE = b"\x89PNG\r\n\x1a\nmade" * 40
LOCAL = Reference(
    source="mug.jpg", path="/p/mug.jpg", sha256=hashlib.sha256(PHOTO).hexdigest(), media_type="image/jpeg"
)
BOTH = (Reference(source=REF, url=REF), LOCAL)


def data_url(data: bytes, width: int = 0) -> str:
    text = base64.b64encode(data).decode()
    lines = [text[i : i + width] for i in range(0, len(text), width)] if width else [text]
    return "data:image/png;base64," + "\n".join(lines)


def frame(**delta: Any) -> str:
    body = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def stream(*contents: str) -> str:
    return "".join(frame(content=content) for content in contents) + "data: [DONE]\n\n"


ECHO = (
    "```json\n" + json.dumps({"prompt": f"{REF} Make the mug red", "model": "flux-kontext-pro"}, indent=2) + "\n```\n\n"
)
BARE_ECHO = json.dumps(
    {"messages": [{"role": "user", "content": f"https://relay.example/reupload.png {REF} Make it failed"}]}
)
PROGRESS = ["> 进度 **2%**\n", "> 进度 **47%**\n", "> 进度 **100%** ✅\n"]

PICTURES: dict[str, tuple[str, Link | Inline]] = {
    "image": (stream(f"![image]({OUT})"), Link(url=OUT)),
    "image and download": (stream(f"![image]({OUT})\n\n", f"[点击下载]({OUT2})"), Link(url=OUT)),
    "echo first": (stream(ECHO, *PROGRESS, f"![image]({OUT})\n", f"[点击下载]({OUT2})"), Link(url=OUT)),
    "bare echo": (stream(BARE_ECHO, "\n", f"![image]({OUT})"), Link(url=OUT)),
    "echo and bare url": (stream(ECHO, *PROGRESS, OUT), Link(url=OUT)),
    "bare echo and bare url": (stream(BARE_ECHO + OUT), Link(url=OUT)),
    "shortened echo": (
        stream('```json\n{"prompt": "https://relay.example/up.png Make…", ...}\n```\n' + OUT),
        Link(url=OUT),
    ),
    "bare url": (stream(OUT), Link(url=OUT)),
    "bare url in prose": (stream(f"完成：{OUT}。谢谢"), Link(url=OUT)),
    "input sent back before": (stream(f"![in]({REF})\n", f"![image]({OUT})"), Link(url=OUT)),
    "input sent back after": (stream(f"![image]({OUT})\n", f"![in]({REF})"), Link(url=OUT)),
    "upload sent back too": (stream(f"![in]({data_url(PHOTO)})\n![image]({OUT})"), Link(url=OUT)),
    "inline": (stream(f"![image]({data_url(MADE)})"), Inline(data=MADE)),
    "inline, wrapped": (stream(f"![image]({data_url(MADE, 76)}\n)"), Inline(data=MADE)),
    "inline, bare": (stream("here:", data_url(MADE), "\n\nDone."), Inline(data=MADE)),
    "inline, bare, wrapped": (stream("here:\n" + data_url(MADE, 76) + "\n\nDone"), Inline(data=MADE)),
    "inline after the upload": (stream(data_url(PHOTO), "\n\n", data_url(MADE)), Inline(data=MADE)),
    "previews": (
        stream("![image](https://c.example/1.png)\n", "![image](https://c.example/2.png)\n", f"![image]({OUT})"),
        Link(url=OUT),
    ),
    "named preview": (stream(f"![image]({OUT})\n", "![preview](https://c.example/1.png)"), Link(url=OUT)),
    "empty image, then link": (stream("![image]()", f"\n[点击下载]({OUT2})"), Link(url=OUT2)),
    "picture and failed words": (stream("The prompt said failed, nsfw, 敏感. ", f"![image]({OUT})"), Link(url=OUT)),
    "linked image": (stream(f"[![image]({OUT})]({OUT2})"), Link(url=OUT)),
    "titled image": (stream(f'![image]({OUT} "a (title)")'), Link(url=OUT)),
    "angled image": (stream(f"![image](<{OUT}>)"), Link(url=OUT)),
    "html": (stream(f'<img src="{OUT.replace("&", "&amp;")}" alt="x">'), Link(url=OUT)),
    "no choices": ('data: {"choices":[]}\n\n' + frame(role="assistant") + stream(OUT), Link(url=OUT)),
    "null content": (frame(role="assistant", content=None) + stream(OUT), Link(url=OUT)),
    "crlf and heartbeats": (": ping\r\n\r\n" + stream(*PROGRESS, OUT).replace("\n", "\r\n: hb\r\n"), Link(url=OUT)),
    "cr": (stream(OUT).replace("\n", "\r"), Link(url=OUT)),
    "bom": ("\ufeff" + stream(OUT), Link(url=OUT)),
    "blanks first": ("\n\n   \n" + stream(OUT), Link(url=OUT)),
    "no done": (frame(content=f"![image]({OUT})"), Link(url=OUT)),
    "no done, no blank line": (frame(content=f"![image]({OUT})").rstrip(), Link(url=OUT)),
    "noise events": ("data: ping\n\nevent: ping\ndata: {}\n\ndata: 7\n\n" + stream(OUT), Link(url=OUT)),
    "split url": (stream(*f"![image]({OUT})"), Link(url=OUT)),
    "parts": (
        frame(content=[{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": OUT}}]),
        Link(url=OUT),
    ),
    "delta images": (
        frame(content="", images=[{"type": "image_url", "image_url": {"url": data_url(MADE)}}]),
        Inline(data=MADE),
    ),
    "parts with the upload": (
        frame(content=[{"type": "image_url", "image_url": {"url": data_url(PHOTO)}}]) + stream(OUT),
        Link(url=OUT),
    ),
    "message": ('data: {"choices":[{"message":{"content":"![image](' + OUT + ')"}}]}\n\n', Link(url=OUT)),
    "images event": ('data: {"data":[{"url":"' + OUT + '"}]}\n\n', Link(url=OUT)),
    "image events": (
        'data: {"type":"image_generation.partial_image","b64_json":"AAAA"}\n\n'
        'data: {"type":"image_generation.completed","b64_json":"' + base64.b64encode(MADE).decode() + '"}\n\n',
        Inline(data=MADE),
    ),
    "json completion": (
        json.dumps({"choices": [{"message": {"role": "assistant", "content": f"![image]({OUT})"}}]}),
        Link(url=OUT),
    ),
    "json images": (json.dumps({"created": 1, "data": [{"url": OUT}]}), Link(url=OUT)),
    "picture, then an error": (
        stream(f"![image]({OUT})").replace("data: [DONE]", 'data: {"error":{"message":"x"}}'),
        Link(url=OUT),
    ),
    "unknown link": (stream("Your picture: https://cdn.example/o/77"), Link(url="https://cdn.example/o/77")),
    "service links": (
        stream("[数据预览](https://async.example/web/1) [图片](https://cdn.example/o/77)"),
        Link(url="https://cdn.example/o/77"),
    ),
}

FAILURES: dict[str, tuple[str, Code, bool]] = {
    "error event": (
        stream("> 进度 **2%**").replace("data: [DONE]", 'event: error\ndata: {"message":"boom"}'),
        Code.SERVER,
        False,
    ),
    "error data": ('data: {"error":{"message":"x","code":"rate_limit_exceeded"}}\n\n', Code.RATE_LIMITED, False),
    "error words": ("event: error\ndata: upstream rate limit\n\n", Code.RATE_LIMITED, False),
    "error moderated": (
        'data: {"error":{"code":"sensitive_words_detected"}}\n\ndata: [DONE]\n\n',
        Code.MODERATED,
        False,
    ),
    "choice error": ('data: {"choices":[{"error":{"code":502,"message":"x"},"delta":{}}]}\n\n', Code.SERVER, False),
    "content filter": ('data: {"choices":[{"delta":{},"finish_reason":"content_filter"}]}\n\n', Code.MODERATED, False),
    "refusal": (frame(refusal="I can't help with that"), Code.MODERATED, False),
    "input moderated": (
        stream(ECHO, *PROGRESS[:1], "生成失败 ❌\n", "失败原因：input_moderation"),
        Code.MODERATED,
        False,
    ),
    "output moderated": (stream("生成失败 ❌ 失败原因：output_moderation"), Code.MODERATED, False),
    "moderated, upload shown": (stream(f"![in]({REF})\n生成失败 ❌ 失败原因：input_moderation"), Code.MODERATED, False),
    "policy": (stream("Sorry, this violates our content policy."), Code.MODERATED, False),
    "balance": (stream("生成失败：余额不足 https://relay.example/topup"), Code.QUOTA, False),
    "rate": (stream("请求过于频繁，请稍后再试"), Code.RATE_LIMITED, False),
    "failed": (stream("生成失败 ❌ 失败原因：timeout, see https://docs.example/why"), Code.NO_IMAGE, True),
    "failed, upload shown": (stream(f"![in]({REF})\n生成失败"), Code.NO_IMAGE, True),
    "nothing": ("data: [DONE]\n\n", Code.BAD_ANSWER, True),
    "empty": ("", Code.BAD_ANSWER, True),
    "comments only": (": ping\n\n: ping\n\n", Code.BAD_ANSWER, True),
    "words that are no stream": ("ok", Code.BAD_ANSWER, True),
    "empty frames": ('data: {"choices":[]}\n\ndata: [DONE]\n\n', Code.NO_IMAGE, True),
    "empty image": (stream("![image]()"), Code.NO_IMAGE, True),
    "progress only": (stream(*PROGRESS), Code.NO_IMAGE, True),
    "service link only": (stream("[数据预览](https://async.example/web/1)"), Code.NO_IMAGE, True),
    "echo only": (stream(ECHO), Code.NO_IMAGE, True),
    "bare echo only": (stream(BARE_ECHO), Code.NO_IMAGE, True),
    "prompt said again": (stream(f"> {REF} Make the mug red"), Code.NO_IMAGE, True),
    "input": (stream(f"![image]({REF})"), Code.ECHOED_INPUT, True),
    "input, with words": (stream(f"Here you go, if you see an error reload: ![image]({REF})"), Code.ECHOED_INPUT, True),
    "input, html-escaped": (stream(f"![image]({REF.replace('&', '&amp;')})"), Code.ECHOED_INPUT, True),
    "input, unescaped": (stream(f"![image](<{REF.replace('%20', ' ')}>)"), Code.ECHOED_INPUT, True),
    "input, json-escaped": (
        stream("![image](" + REF.replace("/", "\\/").replace("&", "\\u0026") + ")"),
        Code.ECHOED_INPUT,
        True,
    ),
    "input, bare": (stream(REF), Code.ECHOED_INPUT, True),
    "input, in capitals": (
        stream(f"![image]({REF.replace('https://photos', 'HTTPS://PHOTOS')})"),
        Code.ECHOED_INPUT,
        True,
    ),
    "input as download": (stream(f"[点击下载]({REF})"), Code.ECHOED_INPUT, True),
    "upload": (stream(f"![image]({data_url(PHOTO)})"), Code.ECHOED_INPUT, True),
    "upload, wrapped": (stream(f"![image]({data_url(PHOTO, 64)})"), Code.ECHOED_INPUT, True),
    "upload as part": (
        frame(content=[{"type": "image_url", "image_url": {"url": data_url(PHOTO)}}]),
        Code.ECHOED_INPUT,
        True,
    ),
    "no link": (stream("![image](/files/1.png)"), Code.BAD_ANSWER, True),
    "file, as an image": (stream("![image](file:///etc/passwd)"), Code.UNSAFE_URL, True),
    "script, as an image": (stream("![image](javascript:alert(1))"), Code.UNSAFE_URL, True),
    "ftp, as an image, and failure": (stream("![image](ftp://x.example/a.png) 生成失败"), Code.NO_IMAGE, True),
    "file, as a link": (stream("[download](file:///a.png)"), Code.NO_IMAGE, True),
    "ftp, in prose": (stream("see ftp://x.example/a.png"), Code.NO_IMAGE, True),
    "script, as a link": (stream("[下载](javascript:alert(1))"), Code.NO_IMAGE, True),
    "no base64": (stream("![image](data:image/png;base64,A)"), Code.BAD_ANSWER, True),
    "json error": (json.dumps({"error": {"code": "insufficient_user_quota"}}), Code.QUOTA, False),
    "json, no picture": (json.dumps({"choices": [{"message": {"content": "hello"}}]}), Code.NO_IMAGE, True),
    "json, unknown": ('{"hello": 1}', Code.BAD_ANSWER, True),
    "json, broken": ('{"data": [', Code.BAD_ANSWER, True),
    "json, deep": ("[" * 5000, Code.BAD_ANSWER, True),
    "deep frame": ('data: {"choices":' + "[" * 5000 + "\n\n", Code.BAD_ANSWER, True),
}


def said(result: Any) -> Any:
    return (result.code, result.billed) if isinstance(result, JobError) else result


SHAPES: dict[str, tuple[bytes, Any]] = {
    **{name: (text.encode(), picture) for name, (text, picture) in PICTURES.items()},
    **{name: (text.encode(), (code, billed)) for name, (text, code, billed) in FAILURES.items()},
}


# In the standard style nothing is uploaded, so nothing uploaded can come back.
ROWS = [(name, style) for name in SHAPES for style in ("chat", "standard") if style == "chat" or "upload" not in name]


@pytest.mark.parametrize(("name", "style"), ROWS)
def test_a_shape_in_packets_of_any_size(
    answer: Callable[..., Any], make_job: Callable[..., Job], name: str, style: str
) -> None:
    body, expected = SHAPES[name]
    images = BOTH if style == "chat" else BOTH[:1]
    job = make_job(style=style, images=images)
    assert said(answer(job, body)) == expected
    for size in (1, 7, max(1, len(body) - 3)):
        packets = [body[at : at + size] for at in range(0, len(body), size)]
        assert said(answer(job, packets if len(body) < 100_000 else [body[:9], body[9:]])) == expected


@settings(max_examples=80)
@given(name=st.sampled_from(sorted(SHAPES)), cuts=st.lists(st.integers(0, 3000), max_size=20))
def test_any_split_gives_the_same_answer(
    answer: Callable[..., Any], make_job: Callable[..., Job], name: str, cuts: list[int]
) -> None:
    body, expected = SHAPES[name]
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    packets = [body[a:b] for a, b in pairwise(edges)]
    assert said(answer(make_job(images=BOTH), packets)) == expected
