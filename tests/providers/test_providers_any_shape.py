"""Answers in every shape that relays, gateways and APIs were seen to use: where the picture is, and where none is."""

# The relays' words come in full-width punctuation.
# A row of a table is a line.
# ruff: noqa: RUF001, E501

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import BASE, Inline, Link, Reference
from batchflux.providers import READER, providers

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

RELAY = "https://relay.example/api"
OUT = "https://cdn.example/out/7f3a.png"
PLAIN = "https://cdn.example/o/77"  # nothing in it says that it is a picture
SIGNED = "https://oss.example/out/7f3a.jpg?Expires=1&OSSAccessKeyId=a&Signature=b%2Fc"
SMALL = "https://cdn.example/out/7f3a_256.png"
REF = "https://photos.example/in/mug%20(1).jpg?v=1&w=2"
UPLOADED = "https://relay.example/uploads/1.png"
PHOTO = b"\xff\xd8\xffthe uploaded photo\xff\xd9" * 9
PNG = b"\x89PNG\r\n\x1a\nmade" * 40
KINDS = {
    "png": PNG,
    "jpeg": b"\xff\xd8\xff\xe0made" * 40,
    "webp": b"RIFF\x10\0\0\0WEBPmade" * 20,
    "gif": b"GIF89amade" * 40,
    "bmp": b"BM\x10\0\0\0\0\0\0\0made" * 20,
    "tiff": b"II*\0made" * 40,
    "avif": b"\0\0\0\x1cftypavifmade" * 20,
    "heic": b"\0\0\0\x18ftypheicmade" * 20,
}
B64 = base64.b64encode(PNG).decode()
DATA = f"data:image/png;base64,{B64}"
LOCAL = Reference(
    source="mug.jpg", path="/p/mug.jpg", sha256=hashlib.sha256(PHOTO).hexdigest(), media_type="image/jpeg"
)
BOTH = (Reference(source=REF, url=REF), LOCAL)
MADE = Inline(data=PNG)


def chat(content: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"id": "c1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def sse(*documents: Any, done: bool = True) -> str:
    frames = "".join(f"data: {json.dumps(one, ensure_ascii=False)}\n\n" for one in documents)
    return frames + ("data: [DONE]\n\n" if done else "")


def said(*contents: str) -> str:
    return sse(*({"choices": [{"index": 0, "delta": {"content": content}}]} for content in contents))


def gemini(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}]}


PICTURE = {"inlineData": {"mimeType": "image/png", "data": B64}}
FOUND: dict[str, tuple[Any, Link | Inline]] = {
    # One level: what gateways and self-made servers answer.
    "output list": ({"status": "succeeded", "output": [OUT]}, Link(url=OUT)),
    "output text": ({"output": PLAIN}, Link(url=PLAIN)),
    "output results": ({"output": {"results": [{"url": SIGNED}]}}, Link(url=SIGNED)),
    "ready sample": ({"status": "Ready", "result": {"sample": PLAIN}}, Link(url=PLAIN)),
    "image_url": ({"image_url": PLAIN}, Link(url=PLAIN)),
    "images of base64": ({"images": [B64]}, MADE),
    "url is relative": ({"data": [{"url": "/files/x.jpg"}]}, Link(url="https://relay.example/files/x.jpg")),
    "url is relative, no slash": ({"data": [{"url": "files/x.jpg"}]}, Link(url=f"{RELAY}/files/x.jpg")),
    "url is relative, no end": ({"data": [{"url": "/files/77"}]}, Link(url="https://relay.example/files/77")),
    "url without a scheme": ({"data": [{"url": "//cdn.example/x.jpg"}]}, Link(url="https://cdn.example/x.jpg")),
    "url of a bare host": ({"data": [{"url": "cdn.example/x.jpg"}]}, Link(url="https://cdn.example/x.jpg")),
    "data url in a data url": ({"data": [{"b64_json": f"data:image/png;base64,{DATA}"}]}, MADE),
    "url list": ({"data": [{"url": [PLAIN]}]}, Link(url=PLAIN)),
    "url is base64": ({"data": [{"url": B64}]}, MADE),
    "url in quotes": ({"data": [{"url": f'"{OUT}"'}]}, Link(url=OUT)),
    "url in angles": ({"data": [{"url": f"<{OUT}>"}]}, Link(url=OUT)),
    "url as markdown": ({"data": [{"url": f"![image]({OUT})"}]}, Link(url=OUT)),
    "url with a blank": (
        {"data": [{"url": "https://cdn.example/my picture.png"}]},
        Link(url="https://cdn.example/my%20picture.png"),
    ),
    "url with escapes": ({"data": [{"url": "https://cdn.example/a\\_b.png"}]}, Link(url="https://cdn.example/a_b.png")),
    "image_urls": ({"data": {"image_urls": [PLAIN]}}, Link(url=PLAIN)),
    "data url in prose": ({"message": f"done: {DATA} bye"}, MADE),
    "any key": ({"foo": [{"bar": {"baz": OUT}}]}, Link(url=OUT)),
    "any key, nothing telling": ({"foo": {"bar": PLAIN}}, Link(url=PLAIN)),
    "any key, base64": ({"foo": [[{"bar": B64}]]}, MADE),
    "any key, data url": ({"foo": {"bar": DATA}}, MADE),
    "a key with a message": ({"msg": "ok", "foo": {"pic": OUT}}, Link(url=OUT)),
    "lines of JSON": (f'{json.dumps({"progress": 50})}\n{json.dumps({"url": OUT})}\n', Link(url=OUT)),
    "a text": (f"Your picture is at {OUT}.", Link(url=OUT)),
    "a URL": (OUT, Link(url=OUT)),
    "a JSON text": (json.dumps(OUT), Link(url=OUT)),
    "base64 alone": (B64, MADE),
    "a data URL alone": (DATA, MADE),
    "a tag alone": (f'<img src="{OUT}">', Link(url=OUT)),
    "markdown alone": (f"![image]({OUT})", Link(url=OUT)),
    "several in one text": ({"data": {"url": f"{OUT},{SMALL}"}}, Link(url=SMALL)),
    "tag of a forum": (f"[img]{OUT}[/img]", Link(url=OUT)),
    "tag of its own": (f"<image>{OUT}</image>", Link(url=OUT)),
    # Chat, in one answer.
    "message image": (chat("", image={"url": PLAIN}), Link(url=PLAIN)),
    "message images": (chat("", images=[{"type": "image_url", "image_url": {"url": DATA}}]), MADE),
    "content source": (
        chat([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}]),
        MADE,
    ),
    "content source url": (chat([{"type": "image", "source": {"type": "url", "url": PLAIN}}]), Link(url=PLAIN)),
    "content is base64": (chat(B64), MADE),
    "content is JSON": (chat(json.dumps({"b64_json": B64})), MADE),
    "content is JSON of a link": (chat(json.dumps({"image_url": PLAIN})), Link(url=PLAIN)),
    "content is fenced JSON": (chat(f'```json\n{{"result": {{"url": "{OUT}"}}}}\n```'), Link(url=OUT)),
    "content is a JSON list": (chat(json.dumps([OUT])), Link(url=OUT)),
    "content is JSON in JSON": (chat(json.dumps({"text": json.dumps({"url": OUT})})), Link(url=OUT)),
    "content is HTML": (chat(f'<div><img alt="x" src="{OUT}"/></div>'), Link(url=OUT)),
    "content is relative markdown": (chat("![image](/files/x.png)"), Link(url="https://relay.example/files/x.png")),
    "content is relative HTML": (chat('<img src="/files/x.png">'), Link(url="https://relay.example/files/x.png")),
    "content, escaped": (chat("![image](https://cdn.example/a\\_b\\_c.png)"), Link(url="https://cdn.example/a_b_c.png")),
    "content, bare and escaped": (chat("see https://cdn.example/a\\_b.png"), Link(url="https://cdn.example/a_b.png")),
    "content with a blank": (
        chat("![image](https://cdn.example/my picture.png)"),
        Link(url="https://cdn.example/my%20picture.png"),
    ),
    "content in blanks": (chat(f"![image]( {OUT} )"), Link(url=OUT)),
    "content, no scheme": (chat("![image](//cdn.example/x.png)"), Link(url="https://cdn.example/x.png")),
    "content is a path": (chat("/files/x.png"), Link(url="https://relay.example/files/x.png")),
    "content quotes a path": (chat('It is "/files/x.png".'), Link(url="https://relay.example/files/x.png")),
    "content in angles": (chat(f"It is <{OUT}>"), Link(url=OUT)),
    "content is a bare host": (chat("cdn.example/x.png"), Link(url="https://cdn.example/x.png")),
    "tool call": (
        chat(None, tool_calls=[{"function": {"name": "draw", "output": json.dumps({"image": OUT})}}]),
        Link(url=OUT),
    ),
    "annotations": (chat("Done.", annotations=[{"type": "image_url", "image_url": {"url": PLAIN}}]), Link(url=PLAIN)),
    "attachments": (chat("Done.", attachments=[{"url": PLAIN, "content_type": "image/png"}]), Link(url=PLAIN)),
    # APIs and what stands behind relays.
    "openai responses": ({"output": [{"type": "image_generation_call", "result": B64}], "status": "completed"}, MADE),
    "openai responses, said to go on": (
        {"output": [{"type": "image_generation_call", "status": "generating", "result": B64}]},
        MADE,
    ),
    "openai responses in markdown": (
        {"output": [{"type": "message", "content": [{"type": "output_text", "text": f"Here\n![image]({DATA})"}]}]},
        MADE,
    ),
    "openai responses, streamed": (
        'event: response.image_generation_call.partial_image\ndata: {"type":"response.image_generation_call.'
        'partial_image","partial_image_b64":"' + base64.b64encode(KINDS["gif"]).decode() + '"}\n\n'
        + sse({"type": "response.output_item.done", "item": {"type": "image_generation_call", "result": B64}}),
        MADE,
    ),
    "seedream, streamed": (
        sse({"type": "image_generation.partial_succeeded", "image_index": 0, "url": PLAIN, "size": "2048x2048"},
            {"type": "image_generation.completed", "usage": {"generated_images": 1}}),
        Link(url=PLAIN),
    ),
    "numbers of bytes": ({"image": {"type": "Buffer", "data": list(PNG)}}, MADE),
    "gemini": (gemini({"text": "Here you go"}, PICTURE, finishReason="STOP"), MADE),
    "gemini, snake case": (gemini({"inline_data": {"mime_type": "image/png", "data": B64}}), MADE),
    "gemini, streamed": (
        sse(gemini({"text": "Here"}), gemini(PICTURE), gemini({"text": ""}, finishReason="STOP"), done=False),
        MADE,
    ),
    "gemini, a list of frames": ([gemini({"text": "Here"}), gemini(PICTURE)], MADE),
    "gemini, file": (gemini({"fileData": {"mimeType": "image/png", "fileUri": PLAIN}}), Link(url=PLAIN)),
    "gemini, a thought first": (gemini({**PICTURE, "thought": True}, PICTURE), MADE),
    "gemini behind a wrapper": ({"response": gemini(PICTURE)}, MADE),
    "imagen": ({"predictions": [{"mimeType": "image/png", "bytesBase64Encoded": B64}]}, MADE),
    "imagen, newer": ({"generatedImages": [{"image": {"imageBytes": B64}}]}, MADE),
    "openrouter": (chat("Here", images=[{"type": "image_url", "image_url": {"url": DATA}}]), MADE),
    "openrouter, imageUrl": (chat("", images=[{"type": "image_url", "imageUrl": {"url": DATA}}]), MADE),
    "replicate": (
        {
            "id": "p1",
            "input": {"prompt": "x", "input_image": UPLOADED},
            "output": PLAIN,
            "status": "succeeded",
            "urls": {"get": "https://api.example/v1/p1", "cancel": "https://api.example/v1/p1/cancel"},
        },
        Link(url=PLAIN),
    ),
    "fal": (
        {"images": [{"url": PLAIN, "content_type": "image/jpeg"}], "seed": 7, "has_nsfw_concepts": [False]},
        Link(url=PLAIN),
    ),
    "fal, its queue": (
        {"status_url": "https://q.example/1/status", "response_url": "https://q.example/1", "image": {"url": OUT}},
        Link(url=OUT),
    ),
    "siliconflow": ({"images": [{"url": SIGNED}], "timings": {"inference": 1.2}, "seed": 1}, Link(url=SIGNED)),
    "dashscope": (
        {"output": {"task_status": "SUCCEEDED", "task_id": "t", "results": [{"orig_prompt": "x", "url": SIGNED}]}},
        Link(url=SIGNED),
    ),
    "dashscope multimodal": (
        {"output": {"choices": [{"message": {"content": [{"image": SIGNED}], "role": "assistant"}}]}},
        Link(url=SIGNED),
    ),
    "volcengine": ({"data": {"binary_data_base64": [B64], "image_urls": None}, "code": 10000}, MADE),
    "jimeng": ({"data": {"item_list": [{"image": {"large_images": [{"image_url": PLAIN}]}}]}}, Link(url=PLAIN)),
    "kling": (
        {"code": 0, "message": "SUCCEED", "data": {
            "task_status": "succeed", "task_result": {"images": [{"index": 0, "url": PLAIN}]}}},
        Link(url=PLAIN),
    ),
    "minimax": ({"data": {"image_urls": [PLAIN]}, "base_resp": {"status_code": 0}}, Link(url=PLAIN)),
    "minimax, base64": ({"data": {"image_base64": [B64]}, "base_resp": {"status_code": 0}}, MADE),
    "midjourney-proxy": (
        {"id": "1", "status": "SUCCESS", "progress": "100%", "imageUrl": PLAIN, "prompt": "x"},
        Link(url=PLAIN),
    ),
    "kie": ({"code": 200, "data": {"state": "success", "resultJson": json.dumps({"resultUrls": [OUT]})}}, Link(url=OUT)),
    "stability": ({"artifacts": [{"base64": B64, "finishReason": "SUCCESS", "seed": 1}]}, MADE),
    "stability, one": ({"image": B64, "finish_reason": "SUCCESS", "seed": 1}, MADE),
    "automatic1111": ({"images": [B64], "parameters": {"init_images": [B64]}, "info": "{}"}, MADE),
    "cloudflare": ({"result": {"image": B64}, "success": True, "errors": [], "messages": []}, MADE),
    "huggingface": ([{"generated_image": DATA}], MADE),
    "together": ({"data": [{"index": 0, "url": PLAIN, "timings": {}}]}, Link(url=PLAIN)),
    "leonardo": (
        {"generations_by_pk": {"generated_images": [{"url": PLAIN, "nsfw": False}], "status": "COMPLETE"}},
        Link(url=PLAIN),
    ),
    "ideogram": ({"created": "x", "data": [{"is_image_safe": True, "url": PLAIN, "prompt": "x"}]}, Link(url=PLAIN)),
    "comfyui": (
        {"outputs": {"9": {"images": [{"url": "/view?filename=a_1.png&type=output"}]}}},
        Link(url="https://relay.example/view?filename=a_1.png&type=output"),
    ),
    "piapi": ({"data": {"status": "completed", "output": {"image_url": PLAIN}}}, Link(url=PLAIN)),
    "dify": ({"answer": f"![image]({OUT})", "metadata": {}}, Link(url=OUT)),
    "coze": ({"messages": [{"role": "assistant", "content": f"![image]({OUT})"}]}, Link(url=OUT)),
    "ollama": (sse({"response": "![image](https://cdn.exa"}, {"response": "mple/x.png)"}), Link(url="https://cdn.example/x.png")),
    "novita": ({"images": [{"image_url": PLAIN, "image_type": "jpeg"}], "task": {"task_id": "t"}}, Link(url=PLAIN)),
    "xai": ({"data": [{"b64_json": DATA, "revised_prompt": "x"}]}, MADE),
    # The result, told from what stands beside it.
    "thumbnail is a link": (chat(f"[![t]({SMALL})]({OUT})"), Link(url=OUT)),
    "thumbnail is a link, nothing telling": (chat(f"[![t]({PLAIN}/s)]({PLAIN}/l)"), Link(url=f"{PLAIN}/l")),
    "thumbnail is a link of HTML": (chat(f'<a href="{OUT}"><img src="{SMALL}"></a>'), Link(url=OUT)),
    "picture leads to a page": (chat(f"[![image]({OUT})](https://relay.example/gallery/77)"), Link(url=OUT)),
    "thumbnail beside": ({"data": [{"thumbnail_url": SMALL, "url": PLAIN}]}, Link(url=PLAIN)),
    "thumbnail first": ({"images": {"thumb": SMALL, "full": OUT}}, Link(url=OUT)),
    "thumbnail by its address": ({"data": [{"url": "https://c.example/thumb/1.png"}, {"url": OUT}]}, Link(url=OUT)),
    "preview by its type": ({"images": [{"type": "preview", "url": SMALL}, {"type": "final", "url": OUT}]}, Link(url=OUT)),
    "logo of a footer": (
        chat(f"![image]({OUT})\n\n---\nPowered by [![x](https://relay.example/x.png)](https://relay.example/)"),
        Link(url=OUT),
    ),
    "brand of a footer": (
        chat(f"![a red mug]({OUT})\n\n---\n![TuZi](https://relay.example/brand.png) https://relay.example/x.png"),
        Link(url=OUT),
    ),
    "below a line": (chat(f"Your picture:\n\n---\n\n![a red mug]({OUT})"), Link(url=OUT)),
    "result below a line": (chat(f"![a]({SMALL})\n\n***\n\n![image]({OUT})"), Link(url=OUT)),
    "logo named so": (chat(f"![image]({OUT})\n![logo](https://relay.example/l.png)"), Link(url=OUT)),
    "logo by its address": (chat(f"![]({OUT})\n![](https://relay.example/static/logo.png)"), Link(url=OUT)),
    "logo under a key": ({"logo_url": "https://relay.example/l.png", "result": PLAIN}, Link(url=PLAIN)),
    "avatar": (chat(f"![image]({OUT})", author={"avatar": "https://relay.example/a.png"}), Link(url=OUT)),
    "reference behind the result": (chat(f"结果：![image]({OUT})\n\n参考图：![image]({UPLOADED})"), Link(url=OUT)),
    "original behind the result": (chat(f"![image]({OUT})\n\n原图：![原图]({UPLOADED})"), Link(url=OUT)),
    "words about a reference": (chat(f"Based on the reference image, here it is: ![]({OUT})"), Link(url=OUT)),
    "input under its key": ({"input": {"image": UPLOADED}, "request": {"url": UPLOADED}, "x": OUT}, Link(url=OUT)),
    "input part": (
        {"output": [{"type": "input_image", "image_url": UPLOADED}, {"type": "output_image", "image_url": OUT}]},
        Link(url=OUT),
    ),
    "input message": ({"messages": [{"role": "user", "content": UPLOADED}, {"role": "assistant", "content": OUT}]}, Link(url=OUT)),
    "reference as base64": ({"images": [base64.b64encode(PHOTO).decode(), B64]}, MADE),
    "docs and help": (
        {"docs": "https://relay.example/docs/x", "help_url": "https://relay.example/h", "foo": PLAIN},
        Link(url=PLAIN),
    ),
    "whole text in every frame": (
        sse(*({"output": {"text": f"![image]({OUT})"[:end]}} for end in (12, 20, 30, 99))),
        Link(url=OUT),
    ),
    "original beside the result": ({"original_image": UPLOADED, "url": OUT}, Link(url=OUT)),
    "original is the result": ({"original_url": PLAIN, "thumbnail_url": SMALL}, Link(url=PLAIN)),
    "thoughts": (chat(f"![image]({OUT})\n<think>It looks like ![x]({UPLOADED})</think>"), Link(url=OUT)),
    "thoughts first": (chat(f"<think>{SMALL}</think>{OUT}"), Link(url=OUT)),
    "code of a footer": (chat(f"![]({OUT})\n![](https://relay.example/assets/qr.png)"), Link(url=OUT)),
    "reference used": (chat(f"![image]({OUT})\n\nReference used: ![x]({UPLOADED})"), Link(url=OUT)),
    "italics": (chat(f"_{OUT}_"), Link(url=OUT)),
    "a kind that is a link": ({"x": {"type": PLAIN, "size": 1}}, Link(url=PLAIN)),
    "created, with its picture": ({"status": "created", "data": [{"url": PLAIN}]}, Link(url=PLAIN)),
    "a description with such words": (
        chat(f"![A round logo of a bakery with a golden loaf in it]({OUT})"),
        Link(url=OUT),
    ),
    "a logo asked for, and another": (
        chat(f"![image]({OUT})\n![logo](https://relay.example/l.png)"),
        Link(url=OUT),
    ),
    "a logo was asked for": (chat("![logo](https://cdn.example/out/logo.png)"), Link(url="https://cdn.example/out/logo.png")),
}  # fmt: skip

NONE: dict[str, tuple[Any, Code, bool]] = {
    "task in a list": ({"data": [{"status": "submitted", "task_id": "t"}]}, Code.BAD_ANSWER, True),
    "task to be polled": ({"id": "7b9e", "polling_url": "https://api.example/t/7b9e"}, Code.BAD_ANSWER, True),
    "task, queued": ({"id": "7b9e", "status": "queued"}, Code.BAD_ANSWER, True),
    "task, kie": ({"code": 200, "msg": "success", "data": {"taskId": "a1"}}, Code.BAD_ANSWER, True),
    "task, dashscope": ({"output": {"task_id": "t", "task_status": "PENDING"}, "request_id": "r"}, Code.BAD_ANSWER, True),
    "task, midjourney": ({"code": 1, "description": "提交成功", "result": "1712"}, Code.BAD_ANSWER, True),
    "task, replicate": (
        {"id": "p1", "status": "starting", "urls": {"get": "https://api.example/v1/p1"}, "output": None},
        Code.BAD_ANSWER,
        True,
    ),
    "task with a draft": ({"status": "IN_PROGRESS", "progress": "50%", "imageUrl": OUT}, Code.BAD_ANSWER, True),
    "task that failed, its upload": ({"task_status": "failed", "image": UPLOADED}, Code.SERVER, False),
    "finish: safety": (gemini(finishReason="SAFETY"), Code.MODERATED, False),
    "finish: safety, in a chat": ({"choices": [{"message": {"content": ""}, "finish_reason": "SAFETY"}]}, Code.MODERATED, False),
    "finish: native": (
        {"choices": [{"message": {"content": ""}, "finish_reason": "stop", "native_finish_reason": "PROHIBITED_CONTENT"}]},
        Code.MODERATED,
        False,
    ),
    "finish: image safety, streamed": (sse(gemini({"text": "I"}), gemini(finishReason="IMAGE_SAFETY")), Code.MODERATED, False),
    "finish: other": (gemini(finishReason="IMAGE_OTHER"), Code.NO_IMAGE, True),
    "finish: no image": (gemini(finishReason="NO_IMAGE"), Code.NO_IMAGE, True),
    "finish: tools": ({"choices": [{"message": {"content": None}, "finish_reason": "tool_calls"}]}, Code.NO_IMAGE, True),
    "finish: error": ({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}, Code.SERVER, False),
    "blocked": ({"promptFeedback": {"blockReason": "OTHER"}}, Code.MODERATED, False),
    "flagged as unsafe": ({"data": [{"is_image_safe": False, "url": None}]}, Code.MODERATED, False),
    "filtered, vertex": ({"predictions": [{"raiFilteredReason": "They violated guidelines."}]}, Code.MODERATED, False),
    "filtered, azure": (
        {"data": [{"content_filter_results": {"hate": {"filtered": False}, "sexual": {"filtered": True}}}]},
        Code.MODERATED,
        False,
    ),
    "filtered, bedrock": ({"finish_reasons": ["Filter reason: prompt"], "images": [None]}, Code.MODERATED, False),
    "task, leonardo": ({"sdGenerationJob": {"generationId": "a1", "apiCreditCost": 8}}, Code.BAD_ANSWER, True),
    "flagged": ({"images": [], "nsfw_content_detected": True}, Code.MODERATED, False),
    "flagged, in an item": ({"data": [{"url": None, "nsfw": True}]}, Code.MODERATED, False),
    "flagged, in a list": ({"images": [{"url": ""}], "has_nsfw_concepts": [True]}, Code.MODERATED, False),
    "not flagged": ({"images": [], "has_nsfw_concepts": [False], "nsfw": False}, Code.NO_IMAGE, False),
    "base_resp, moderated": ({"base_resp": {"status_code": 1026, "status_msg": "new sensitive"}}, Code.MODERATED, False),
    "base_resp, balance": ({"data": {}, "base_resp": {"status_code": 1008, "status_msg": "no"}}, Code.QUOTA, False),
    "base_resp, unknown": ({"base_resp": {"status_code": 7777, "status_msg": "odd"}}, Code.NO_IMAGE, True),
    "dashscope inspection": ({"code": "DataInspectionFailed", "message": "no", "request_id": "r"}, Code.MODERATED, False),
    "words": (chat("I would love to, but which mug do you mean?"), Code.NO_IMAGE, True),
    "words, streamed": (said("Which ", "mug?"), Code.NO_IMAGE, True),
    "words, gemini": (gemini({"text": "Which mug?"}, finishReason="STOP"), Code.NO_IMAGE, True),
    "failed within": (
        {"output": {"task_status": "FAILED", "code": "DataInspectionFailed", "message": "x"}}, Code.MODERATED, False),
    "failed item": ({"data": [{"error": {"code": "content_policy_violation"}}]}, Code.MODERATED, False),
    "failed choice": ({"choices": [{"error": {"code": 429, "message": "x"}}]}, Code.RATE_LIMITED, False),
    "failed response": (
        sse({"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error"}}}),
        Code.SERVER, False),
    "words after a state": (
        sse({"type": "response.created", "response": {"status": "in_progress"}},
            {"type": "response.completed", "response": {"status": "completed", "output": [
                {"content": [{"text": "Which mug?"}]}]}}),
        Code.NO_IMAGE, True),
    "words and a path": (chat("It failed to write /tmp/x.png"), Code.NO_IMAGE, True),
    "words and a finish": (gemini({"text": "unsafe: safety"}, finishReason="OTHER"), Code.MODERATED, False),
    "task that says why it failed": (
        sse({"task_id": "t", "choices": [{"delta": {"content": "失败原因：input_moderation"}}]}), Code.MODERATED, False),
    "option's own link": (chat(f"![image]({UPLOADED}?own)"), Code.ECHOED_INPUT, False),
    "words and JSON": (chat('Call the tool: {"size": "1024x1024"}'), Code.NO_IMAGE, True),
    "words and places to go to": (
        chat("Join us at https://t.me/relay or https://relay.example/docs/start"), Code.NO_IMAGE, True),
    "words and a task": (chat("任务已提交 https://relay.example/task/abc"), Code.NO_IMAGE, True),
    "progress is no words": (said("> 进度 **50%**\n", "> 生成中...\n", "⏳ processing 70%\n"), Code.NO_IMAGE, False),
    "thumbnail only": ({"data": [{"thumbnail_url": SMALL}]}, Code.NO_IMAGE, False),
    "logo only": (chat("![logo](https://relay.example/l.png)"), Code.NO_IMAGE, True),
    "logo only, by its address": (chat("![](https://relay.example/static/banner.png)"), Code.NO_IMAGE, False),
    "draft only": (sse({"type": "image_generation.partial_image", "b64_json": B64}), Code.NO_IMAGE, False),
    "thought only": (gemini({**PICTURE, "thought": True}), Code.NO_IMAGE, False),
    "input only": ({"data": [], "input": {"image": UPLOADED}}, Code.NO_IMAGE, False),
    "docs only": ({"data": [], "docs_url": "https://relay.example/docs"}, Code.NO_IMAGE, False),
    "reference only": ({"output": [REF]}, Code.ECHOED_INPUT, False),
    "reference only, as base64": ({"foo": base64.b64encode(PHOTO).decode()}, Code.ECHOED_INPUT, False),
    "base64 of anything": ({"data": [{"b64_json": base64.b64encode(b"<html>no</html>" * 9).decode()}]}, Code.NO_IMAGE, False),
    "data url of anything": (chat("![image](data:image/png;base64,QUJDREVGR0g=)"), Code.BAD_ANSWER, False),
    "nothing": ({"data": []}, Code.NO_IMAGE, False),
}  # fmt: skip


def body_of(answer: Any) -> bytes:
    return (answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)).encode()


def read(answer: Callable[..., Any], job: Job, body: bytes, **how: Any) -> Any:
    return answer(job, [body[:7], body[7:]], headers={BASE: RELAY}, **how)


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("style", ["standard", "chat"])
def test_a_picture_is_found_in_any_shape(
    answer: Callable[..., Any], make_job: Callable[..., Job], name: str, style: str
) -> None:
    shape, expected = FOUND[name]
    prompt = "Make a logo for the mug" if "asked for" in name else "Make the mug red"
    job = make_job(style=style, images=BOTH[: 1 if style == "standard" else 2], prompt=prompt)
    if style == "chat" or "as base64" not in name:
        assert read(answer, job, body_of(shape)) == expected
        assert providers()["flux-relay", style].read_again(job, body_of(shape), base_url=RELAY).asset == expected


CHARSETS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize(
    "text", [json.dumps({"data": [{"url": OUT}]}), sse(chat(f"![图]({OUT})"))], ids=["JSON", "stream"]
)
def test_an_answer_is_read_in_any_charset_of_unicode(
    answer: Callable[..., Any], make_job: Callable[..., Job], charset: str, text: str
) -> None:
    assert read(answer, make_job(), text.encode(charset)) == Link(url=OUT)


@pytest.mark.parametrize("named", ["gbk", '"GB18030"', "utf-8", "punycode", "none", ""])
def test_a_charset_is_believed_where_the_answer_is_not_in_utf_8(
    answer: Callable[..., Any], make_job: Callable[..., Job], named: str
) -> None:
    text = json.dumps({"error": {"message": "余额不足"}}, ensure_ascii=False)
    told = {"content-type": f"application/json; charset={named}"}
    foreign = "gb" in named.lower()
    for charset in ("utf-8", "gbk") if foreign else ("utf-8",):
        error = answer(make_job(), [text.encode(charset)], headers=told)
        assert (error.code, "余额不足" in error.message) == (Code.QUOTA, True)


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_picture_is_not_taken_and_not_asked_for_in_vain(
    answer: Callable[..., Any], make_job: Callable[..., Job], name: str
) -> None:
    shape, code, final = NONE[name]
    job = make_job(images=BOTH, options=(("image_prompt", f"{UPLOADED}?own"),))
    got = read(answer, job, body_of(shape))
    assert isinstance(got, JobError), got
    assert (got.code, got.final) == (code, final), got.message
    kept = got.code in (Code.BAD_ANSWER, Code.NO_IMAGE, Code.ECHOED_INPUT)
    assert got.answer == (body_of(shape) if kept else None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_any_kind_is_proved_by_its_first_bytes(
    answer: Callable[..., Any], make_job: Callable[..., Job], kind: str
) -> None:
    data = KINDS[kind]
    text = base64.b64encode(data).decode()
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    wrapped = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for shape in ({"x": text}, {"x": plain}, {"x": wrapped}, chat(f"data:;base64,{text}"), [[text]]):
        assert read(answer, make_job(), body_of(shape)) == Inline(data=data)
    assert answer(make_job(), data, headers={"content-type": "text/html"}) == Inline(data=data)
    cut = answer(make_job(), data, complete=False)
    assert cut.code is Code.UNKNOWN


def test_a_body_that_is_the_reference_is_an_echo(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    assert answer(make_job(images=BOTH), PHOTO).code is Code.ECHOED_INPUT


def test_what_a_person_is_told(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    def told(shape: Any) -> str:
        return str(read(answer, make_job(), body_of(shape)).message)

    assert told(chat("Which mug?")) == "the answer holds no picture but says: Which mug?"
    assert "task (t1)" in told({"task_id": "t1", "status": "queued"})
    assert "style: native" in told({"task_id": "t1", "status": "queued"})
    assert "thumbnail" in told({"data": [{"thumb": SMALL}]})
    assert "odd" in told({"base_resp": {"status_code": 7777, "status_msg": "odd"}})
    assert "IMAGE_OTHER".lower() in told(gemini(finishReason="IMAGE_OTHER"))


def test_the_seed_is_told_wherever_it_stands(make_job: Callable[..., Job]) -> None:
    chats = providers()["flux-relay", "chat"]
    body = body_of({"seed": 7, "images": [{"url": OUT, "revised_prompt": "A red mug"}], "input": {"seed": 9}})
    found = chats.read_again(make_job(), body)
    assert (found.seed, found.revised_prompt) == (7, "A red mug")
    assert READER >= 1


KEYS = st.text(alphabet=st.characters(codec="utf-8", categories=["L", "N"]), max_size=8).filter(
    lambda key: key.isdecimal() or not key.isascii() or key.startswith(("q", "z", "k"))
)
NOISE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
SPELLINGS = ("{}", "  {}\n", "<{}>", '"{}"', "![image]({})", "see {} here", "[download]({})", "`{}`", "图：{}。")


@st.composite
def planted(draw: st.DrawFn, what: str) -> str:
    """Make an answer, whole JSON, Markdown or a stream, that holds a text at any place."""
    value: Any = draw(st.sampled_from(SPELLINGS)).format(what)
    for _ in range(draw(st.integers(0, 6))):
        key, noise = draw(KEYS), draw(NOISE)
        value = draw(st.sampled_from([[noise, value], [value], {key: value}, {"k": noise, key + "z": value}]))
    kind = draw(st.sampled_from(["json", "chat", "sse", "text"]))
    if kind == "json":
        return json.dumps({"choices": [], "z": value})
    text = value if isinstance(value, str) else json.dumps(value)
    if kind == "chat":
        return json.dumps(chat(text))
    if kind == "text":
        return text if not text.startswith(("<", "{", "[")) else f"It is {text}"
    cut = draw(st.integers(0, len(text)))
    return said(text[:cut], text[cut:])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_picture_planted_anywhere_is_found(
    answer: Callable[..., Any], make_job: Callable[..., Job], data: st.DataObject
) -> None:
    body = data.draw(planted(OUT)).encode()
    assert read(answer, make_job(images=BOTH), body) == Link(url=OUT)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_reference_planted_anywhere_is_never_taken(
    answer: Callable[..., Any], make_job: Callable[..., Job], data: st.DataObject
) -> None:
    spelled = data.draw(
        st.sampled_from([REF, REF.replace("&", "&amp;"), REF.replace("https", "HTTPS"), REF.replace("https", "http")])
    )
    body = data.draw(planted(spelled)).encode()
    assert isinstance(read(answer, make_job(images=BOTH), body), JobError)


XML = '<?xml version="1.0" encoding="utf-8"?>'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{XML}<Result><Url>{OUT}</Url></Result>", OUT),
        (f"{XML}<Result xmlns='http://x.example/ns'><Url>{PLAIN}?a=1&amp;b=2</Url></Result>", f"{PLAIN}?a=1&b=2"),
        (f"{XML}\n<r><thumbUrl>{SMALL}</thumbUrl><data><image><![CDATA[{PLAIN}]]></image></data></r>", PLAIN),
        (f"{XML}<r><b64Json>{B64}</b64Json></r>", PNG),
        (f"{XML}<r><Input><Url>{UPLOADED}</Url></Input></r>", Code.BAD_ANSWER),
        (f"{XML}<r><State>1</State><br/></r></q>", Code.BAD_ANSWER),
        (f"{XML}<!DOCTYPE html><html><body><img src='{PLAIN}'></body></html>", PLAIN),
        (f"<html><head><link rel=icon href='{SMALL}'></head><body><img src='{PLAIN}'></body></html>", PLAIN),
        (f"<html><body><img src='{DATA}'></body></html>", PNG),
        ("<html><body>Welcome. <a href='https://relay.example/about'>About us</a></body></html>", Code.BAD_ANSWER),
        (f"<html><script>let a = '{OUT}'</script><title>Sign in</title></html>", Code.BAD_ANSWER),
        ("<html>", Code.BAD_ANSWER),
    ],
)
def test_a_page_or_xml_is_searched_for_the_picture_and_kept_when_it_has_none(
    answer: Callable[..., Any], make_job: Callable[..., Job], body: str, expected: str | bytes | Code
) -> None:
    got = answer(make_job(images=()), body.encode())
    if isinstance(expected, Code):
        assert (got.code, got.billed, got.final, got.answer) == (expected, True, False, body.encode())
    else:
        assert got == (Link(url=expected) if isinstance(expected, str) else Inline(data=expected))


def test_a_link_too_long_to_be_fetched_is_asked_for_once(
    answer: Callable[..., Any], make_job: Callable[..., Job]
) -> None:
    got = answer(make_job(), json.dumps({"data": [{"url": f"{OUT}?{'x' * 9000}"}]}).encode())
    assert (got.code, got.final) == (Code.BAD_ANSWER, True)
    assert "a link of more than 8192 characters" in got.message


def test_a_reference_whose_query_was_hidden_in_a_kept_answer_is_still_the_jobs_own(
    answer: Callable[..., Any], make_job: Callable[..., Job]
) -> None:
    job = make_job(images=(Reference(source=SIGNED, url=SIGNED),))
    kept = json.dumps({"data": [{"url": f"{SIGNED.partition('?')[0]}?***"}]})
    assert answer(job, kept.encode()).code is Code.ECHOED_INPUT
