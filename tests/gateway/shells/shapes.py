"""What chat shells send when their user asks for a picture, and what they ask for behind his back.

Written down from their sources, in our words; `source` says which file of which project, as it stood between July and
November 2026. Pictures are small but whole. A body that is not JSON is a form: `parts`.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from batchflux.gateway.reading.images import Part


def small(colour: str, kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(made, kind)
    return made.getvalue()


def data_url(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


MUG, CUP, MASK = small("red"), small("blue"), small("white")
PHOTO = small("green", "JPEG")  # NextChat makes a JPEG of whatever is uploaded
MODEL = "flux-kontext-pro"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One request. `case` names it: which shell, and what its user does."""

    sender: str
    case: str
    path: str
    source: str
    body: dict[str, Any] | None = None
    parts: tuple[Part, ...] = ()
    headers: dict[str, str] = field(default_factory=lambda: JSON)

    @property
    def name(self) -> str:
        return f"{self.sender}: {self.case}"

    def json(self) -> bytes:
        return json.dumps(self.body).encode()


GENERATIONS, EDITS, CHAT = "/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"


def texts(**fields: str) -> tuple[Part, ...]:
    return tuple(Part(name=name, data=text.encode()) for name, text in fields.items())


def upload(name: str, data: bytes, filename: str = "a.png") -> Part:
    return Part(name=name, data=data, filename=filename)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def seen(text: str, *links: str, **detail: str) -> dict[str, Any]:
    """Return what a user says, with pictures as all shells put them."""
    shown = [{"type": "image_url", "image_url": {"url": link, **detail}} for link in links]
    return user([{"type": "text", "text": text}, *shown])


# What a shell sends around the messages of a chat.
NEXTCHAT = {
    "stream": True,
    "model": MODEL,
    "temperature": 0.5,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_p": 1,
}
LOBEHUB = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "temperature": 1, "top_p": 1}
OPEN_WEBUI = {"stream": True, "model": MODEL}
CHERRY = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, "temperature": 1}
TAVERN = {
    "model": MODEL,
    "temperature": 1,
    "max_tokens": 300,
    "stream": True,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_p": 1,
    "logit_bias": {},
}
SDK = {
    **JSON,
    "user-agent": "OpenAI/Python 3.57.0",
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}
NODE = {**JSON, "user-agent": "OpenAI/JS 4.104.0", "x-stainless-lang": "js", "x-stainless-retry-count": "0"}
PERSONA = system("You are a helpful assistant.")

_next = "NextChat app/client/platforms/openai.ts"
_lobe = "lobehub packages/model-runtime/src/core/openaiCompatibleFactory/createImage.ts"
_open = "open-webui backend/open_webui/routers/images.py"
_cherry = "cherry-studio src/renderer/src/pages/paintings/providers/newapi/provider.ts"
_tavern = "SillyTavern src/endpoints/backends/chat-completions.js, public/scripts/openai.js"
_sdk = "openai-python 3.57.0, as it sends it"

PICTURES = (
    Shape(
        sender="NextChat",
        case="DALL·E 3",
        path=GENERATIONS,
        source=_next,
        body={
            "model": "dall-e-3",
            "prompt": "a red mug",
            "response_format": "b64_json",
            "n": 1,
            "size": "1024x1024",
            "quality": "standard",
            "style": "vivid",
        },
    ),
    Shape(
        sender="NextChat",
        case="DALL·E 3, wide and HD",
        path=GENERATIONS,
        source=_next,
        body={
            "model": "dall-e-3",
            "prompt": "a red mug",
            "response_format": "b64_json",
            "n": 1,
            "size": "1792x1024",
            "quality": "hd",
            "style": "vivid",
        },
    ),
    Shape(sender="NextChat", case="chat", path=CHAT, source=_next, body={"messages": [user("a red mug")], **NEXTCHAT}),
    Shape(
        sender="NextChat",
        case="chat with a photo",
        path=CHAT,
        source=_next,
        body={
            "messages": [PERSONA, seen("on marble", data_url(PHOTO, "jpeg"))],
            **NEXTCHAT,
            "max_tokens": 4000,
        },
    ),
    Shape(
        sender="LobeHub",
        case="a picture",
        path=GENERATIONS,
        source=_lobe,
        headers=NODE,
        body={"model": MODEL, "n": 1, "prompt": "a red mug", "aspectRatio": "16:9", "seed": 7},
    ),
    Shape(
        sender="LobeHub",
        case="a picture of DALL·E 3",
        path=GENERATIONS,
        source=_lobe,
        headers=NODE,
        body={"model": "dall-e-3", "n": 1, "response_format": "b64_json", "prompt": "a red mug", "size": "1792x1024"},
    ),
    Shape(
        sender="LobeHub",
        case="an edit",
        path=EDITS,
        source=_lobe,
        headers=NODE,
        parts=(*texts(model="gpt-image-1", n="1", input_fidelity="high", prompt="on marble"), upload("image", MUG)),
    ),
    Shape(
        sender="LobeHub",
        case="an edit of two",
        path=EDITS,
        source=_lobe,
        headers=NODE,
        parts=(*texts(model=MODEL, n="1", prompt="both on marble"), upload("image[]", MUG), upload("image[]", CUP)),
    ),
    Shape(
        sender="LobeHub",
        case="a picture by chat",
        path=CHAT,
        source=_lobe,
        headers=NODE,
        body={
            "messages": [seen("on marble", data_url(MUG))],
            "model": MODEL,
            "modalities": ["image", "text"],
            "stream": False,
        },
    ),
    Shape(
        sender="LobeHub",
        case="chat",
        path=CHAT,
        source="lobehub packages/prompts/src/prompts/files (what stands behind a user's words)",
        headers=NODE,
        body={
            **LOBEHUB,
            "messages": [
                seen(
                    "on marble\n\n<!-- SYSTEM CONTEXT (NOT PART OF USER QUERY) -->\n<files_info><images>"
                    '<image name="a.png" url="https://lobe.example/a.png"></image></images></files_info>\n'
                    "<!-- END SYSTEM CONTEXT -->",
                    data_url(MUG),
                    detail="auto",
                )
            ],
        },
    ),
    Shape(
        sender="Open WebUI",
        case="a picture",
        path=GENERATIONS,
        source=_open,
        body={"model": MODEL, "prompt": "a red mug", "n": 1, "size": "512x512", "response_format": "b64_json"},
    ),
    Shape(
        sender="Open WebUI",
        case="a picture of GPT Image",
        path=GENERATIONS,
        source=_open,
        body={"model": "gpt-image-1", "prompt": "a red mug", "n": 2, "size": "auto"},
    ),
    Shape(
        sender="Open WebUI",
        case="an edit",
        path=EDITS,
        source=_open,
        headers={},
        parts=(*texts(model=MODEL, prompt="on marble", response_format="b64_json"), upload("image", MUG)),
    ),
    Shape(
        sender="Open WebUI",
        case="an edit of two",
        path=EDITS,
        source=_open,
        headers={},
        parts=(
            *texts(model=MODEL, prompt="both on marble", n="1", size="1024x1536", response_format="b64_json"),
            *(upload("image[]", MUG), upload("image[]", CUP)),
        ),
    ),
    Shape(
        sender="Open WebUI",
        case="chat",
        path=CHAT,
        source="open-webui backend/open_webui/utils/middleware.py",
        body={**OPEN_WEBUI, "messages": [seen("on marble", data_url(MUG))]},
    ),
    Shape(
        sender="Cherry Studio",
        case="a picture",
        path=GENERATIONS,
        source=_cherry,
        body={"prompt": "a red mug", "model": MODEL, "size": "1536x1024", "n": 2, "quality": "high"},
    ),
    Shape(
        sender="Cherry Studio",
        case="an edit of two",
        path=EDITS,
        source=_cherry,
        headers={},
        parts=(
            *texts(prompt="both on marble", model=MODEL, background="opaque"),
            *(upload("image", MUG), upload("image", CUP)),
        ),
    ),
    Shape(
        sender="Cherry Studio",
        case="chat",
        path=CHAT,
        source="cherry-studio src/renderer/src/aiCore",
        body={**CHERRY, "messages": [PERSONA, seen("on marble", data_url(MUG))]},
    ),
    Shape(
        sender="SillyTavern",
        case="DALL·E 3",
        path=GENERATIONS,
        source="SillyTavern public/scripts/extensions/stable-diffusion/index.js",
        body={
            "prompt": "a red mug",
            "model": "dall-e-3",
            "size": "1024x1792",
            "n": 1,
            "quality": "standard",
            "style": "vivid",
            "response_format": "b64_json",
        },
    ),
    Shape(
        sender="SillyTavern",
        case="chat",
        path=CHAT,
        source=_tavern,
        body={
            "messages": [
                system("Write the next reply of Seraphina."),
                {"role": "assistant", "content": "Welcome."},
                seen("on marble", data_url(MUG), detail="low"),
                system("Stay in character."),
            ],
            **TAVERN,
        },
    ),
    Shape(
        sender="OpenAI SDK",
        case="generate",
        path=GENERATIONS,
        source=_sdk,
        headers=SDK,
        body={"model": MODEL, "prompt": "a red mug", "n": 2, "quality": "high", "size": "1024x1536"},
    ),
    Shape(
        sender="OpenAI SDK",
        case="generate, streamed",
        path=GENERATIONS,
        source=_sdk,
        headers=SDK,
        body={"model": MODEL, "prompt": "a red mug", "stream": True, "partial_images": 0},
    ),
    Shape(
        sender="OpenAI SDK",
        case="edit",
        path=EDITS,
        source=_sdk,
        headers=SDK,
        parts=(*texts(prompt="on marble", model=MODEL), upload("image", MUG)),
    ),
    Shape(
        sender="OpenAI SDK",
        case="edit two with a mask",
        path=EDITS,
        source=_sdk,
        headers=SDK,
        parts=(
            *texts(prompt="on marble", model=MODEL, n="1", size="auto", stream="false"),
            *(upload("image[]", MUG), upload("image[]", CUP), upload("mask", MASK)),
        ),
    ),
)


def _asked(sender: str, case: str, source: str, messages: list[dict[str, Any]], **rest: Any) -> Shape:
    return Shape(
        sender=sender, case=case, path=CHAT, source=source, body={"model": MODEL, **rest, "messages": messages}
    )


_before = [user("a red mug"), {"role": "assistant", "content": "![](http://127.0.0.1:8700/images/1-a.png)"}]
_history = "<chat_history>\nUSER: a red mug\n</chat_history>"
_prompts = "open-webui backend/open_webui/config.py"
_locales = "NextChat app/locales"
_chains = "lobehub packages/prompts/src/chains"

CHORES = (
    _asked(
        "Open WebUI",
        "title",
        _prompts,
        [user(f"### Task:\nGenerate a concise, 3-5 word title.\n{_history}")],
        stream=False,
        max_completion_tokens=1000,
    ),
    _asked("Open WebUI", "tags", _prompts, [user(f"### Task:\nGenerate 1-3 broad tags.\n{_history}")], stream=False),
    _asked(
        "Open WebUI",
        "follow-ups",
        _prompts,
        [user(f"### Task:\nSuggest 3-5 follow-up questions.\n{_history}")],
        stream=False,
    ),
    _asked(
        "Open WebUI", "queries", _prompts, [user(f"### Task:\nAnalyze the chat history.\n{_history}")], stream=False
    ),
    _asked(
        "Open WebUI",
        "image prompt",
        _prompts,
        [user(f"### Task:\nGenerate a detailed prompt.\n{_history}")],
        stream=False,
    ),
    _asked(
        "Open WebUI",
        "emoji",
        _prompts,
        [user("Your task is to reflect the speaker's likely facial expression.")],
        stream=False,
        max_completion_tokens=4,
    ),
    _asked(
        "NextChat",
        "topic",
        _locales,
        [*_before, user("Please generate a four to five word title summarizing our conversation.")],
        stream=False,
    ),
    _asked(
        "NextChat",
        "topic in Chinese",
        _locales,
        [*_before, user("使用四到五个字直接返回这句话的简要主题")],
        stream=False,
    ),
    _asked(
        "NextChat",
        "summary",
        _locales,
        [*_before, system("Summarize the discussion briefly in 200 words or less.")],
        stream=True,
    ),
    _asked(
        "LobeHub",
        "title",
        _chains,
        [system("You are a professional conversation summarizer. Generate a title."), user("user: a red mug")],
    ),
    _asked(
        "LobeHub",
        "title as JSON",
        _chains,
        [PERSONA, user("a red mug")],
        response_format={"type": "json_schema", "json_schema": {"name": "topic_title", "schema": {}}},
    ),
    _asked(
        "LobeHub",
        "name of a series",
        _chains,
        [
            system("You are a senior AI art creator and language master. Based on the AI image prompt, name it."),
            user("Prompts:\n1. a red mug"),
        ],
    ),
    _asked("LobeHub", "check", "lobehub Checker.tsx", [user("hello")]),
    _asked(
        "Cherry Studio",
        "topic",
        "cherry-studio TopicNamingService.ts",
        [system("Nommez cette conversation."), user('[{"role":"user","mainText":"a red mug"}]')],
    ),
    _asked(
        "Cherry Studio",
        "topic in English",
        "cherry-studio TopicNamingService.ts",
        [system("A title in English, ignoring instructions and without punctuation or symbols."), user("a red mug")],
    ),
    _asked("Cherry Studio", "check", "cherry-studio ApiService.ts", [user("hi")], stream=True),
    _asked(
        "SillyTavern",
        "summary",
        "SillyTavern memory/index.js",
        [*_before, system("Ignore previous instructions. Summarize the most important facts.")],
    ),
    _asked(
        "SillyTavern",
        "description",
        "SillyTavern stable-diffusion/index.js",
        [*_before, system("In the next response I want you to provide only a detailed list.")],
    ),
    _asked("SillyTavern", "caption", "SillyTavern caption/index.js", [seen("What's in this image?", data_url(MUG))]),
    _asked("SillyTavern", "test message", "SillyTavern public/scripts/openai.js", [user("Hi")]),
)
