"""How each shell takes an answer: what its user sees of one, by what its source does with it; in our words.

They share no code with the gateway. A taker raises where the shell would throw, which fails the test that calls it;
what the shell shows as an error is `error`.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        return self.headers.get("Content-Type", "")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the shell's user sees: pictures as bytes, or as the links that it shows; words; an error."""

    pictures: list[bytes] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    text: str = ""
    error: str = ""


_SHOWN = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def events(body: bytes) -> Iterator[str]:
    """Yield the data of server-sent events as the standard has it: comments and other fields are passed over."""
    lines: list[str] = []
    for line in body.decode().replace("\r\n", "\n").split("\n"):
        if not line and lines:
            yield "\n".join(lines)
            lines = []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))


def shown(text: str) -> Seen:
    """Render markdown: what stands as a picture is one."""
    seen = Seen(text=text)
    for link in _SHOWN.findall(text):
        if link.startswith("data:"):
            seen.pictures.append(base64.b64decode(link.partition(",")[2], validate=True))
        else:
            seen.links.append(link)
    return seen


def nextchat_image(answer: Answer) -> Seen:
    """client/platforms/openai.ts, extractMessage: any status; an error is shown as JSON."""
    told = answer.json()
    if told.get("error"):
        return Seen(error=json.dumps(told, indent=4))
    first = told["data"][0]
    if first.get("url"):
        return Seen(links=[first["url"]])
    return Seen(pictures=[base64.b64decode(first["b64_json"])])


def nextchat_chat(answer: Answer) -> Seen:
    """utils/chat.ts, streamWithThink: what is no event stream is shown as it is; frames without choices are skipped."""
    if answer.status != 200 or not answer.kind.startswith("text/event-stream"):
        return Seen(error=answer.body.decode())
    text = ""
    for data in events(answer.body):
        if data == "[DONE]":
            return shown(text)
        choices = json.loads(data).get("choices")
        text += (choices[0].get("delta", {}).get("content") or "") if choices else ""
    return shown(text)


def _refused(answer: Answer) -> Seen | None:
    """What OpenAI's SDKs raise: the error's message with its status."""
    if answer.status < 400:
        return None
    return Seen(error=f"{answer.status} {answer.json()['error']['message']}")


def lobehub_image(answer: Answer) -> Seen:
    """openaiCompatibleFactory/createImage.ts: OpenAI's SDK; base64 first, and it is called a PNG whatever it is."""
    refused = _refused(answer)
    if refused is not None:
        return refused
    first = answer.json()["data"][0]
    if first.get("b64_json"):
        return Seen(pictures=[base64.b64decode(first["b64_json"])])
    return Seen(links=[first["url"]])


def lobehub_picture_by_chat(answer: Answer) -> Seen:
    """createImage.ts, generateByChatModel: the first of `message.images`, or a picture in the words."""
    refused = _refused(answer)
    if refused is not None:
        return refused
    message = answer.json()["choices"][0]["message"]
    for image in message.get("images") or []:
        return shown(f"![]({image['image_url']['url']})")
    return shown(message["content"])


def sdk_chat(answer: Answer) -> Seen:
    """OpenAI's SDKs over a stream, as LobeHub and Cherry Studio use them: a frame with `error` is thrown."""
    refused = _refused(answer)
    if refused is not None:
        return refused
    text = ""
    for data in events(answer.body):
        if data.startswith("[DONE]"):
            break
        frame = json.loads(data)
        if frame.get("error"):
            return Seen(text=text, error=frame["error"]["message"])
        text += "".join(choice["delta"].get("content") or "" for choice in frame["choices"])
    return shown(text)


def open_webui_image(answer: Answer) -> Seen:
    """routers/images.py: raises for a status (its reason alone is shown), and fetches no link into private networks."""
    if answer.status >= 400:
        return Seen(error=f"[ERROR: {answer.status}]")
    seen = Seen()
    for image in answer.json()["data"]:
        if image.get("url"):
            host = urlsplit(image["url"]).hostname or ""
            assert not ip_address(host).is_private, "Open WebUI refuses to fetch from a private address"
            seen.links.append(image["url"])
        else:
            seen.pictures.append(base64.b64decode(image["b64_json"]))
    return seen


def open_webui_chat(answer: Answer) -> Seen:
    """utils/middleware.py: `data:` lines; `error` in one is shown; the words are kept as they are."""
    if answer.status >= 400:
        return Seen(error=answer.json()["error"]["message"])
    text = ""
    for line in answer.body.decode().splitlines():
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            continue
        frame = json.loads(line[5:].strip())
        if "error" in frame:
            return Seen(text=text, error=frame["error"]["message"])
        choices = frame.get("choices", [])
        text += (choices[0].get("delta", {}).get("content") or "") if choices else ""
    assert "data:image" not in text, "base64 in a chat makes Open WebUI's database swell and its page stop"
    return shown(text)


def cherry_image(answer: Answer) -> Seen:
    """paintings/providers/newapi/provider.ts: JSON whatever the status; links and base64, all of them."""
    told = answer.json()
    if answer.status >= 400:
        return Seen(error=told["error"]["message"])
    made = told.get("data") or []
    coded = [base64.b64decode(each["b64_json"]) for each in made if each.get("b64_json")]
    return Seen(links=[each["url"] for each in made if each.get("url")], pictures=coded)


def tavern_image(answer: Answer) -> Seen:
    """endpoints/openai.js and stable-diffusion/index.js: base64 alone, of the first picture."""
    if answer.status >= 400:
        return Seen(error=answer.body.decode())
    return Seen(pictures=[base64.b64decode(answer.json()["data"][0]["b64_json"])])


def tavern_chat(answer: Answer) -> Seen:
    """public/scripts/openai.js: the stream is handed through; `error` in a frame is shown, and ends it."""
    if answer.status >= 400:
        return Seen(error=answer.json()["error"]["message"])
    text = ""
    for data in events(answer.body):
        if data == "[DONE]":
            break
        frame = json.loads(data)
        if frame.get("error"):
            return Seen(text=text, error=frame["error"]["message"])
        text += (frame["choices"][0]["delta"].get("content") or "") if frame.get("choices") else ""
    return shown(text)


def sdk_image(answer: Answer) -> Seen:
    """Read what OpenAI's SDK hands its caller: a document's pictures, or the events of a stream."""
    refused = _refused(answer)
    if refused is not None:
        return refused
    if not answer.kind.startswith("text/event-stream"):
        return cherry_image(answer)
    frames = [json.loads(data) for data in events(answer.body) if data != "[DONE]"]
    failed = [frame["error"]["message"] for frame in frames if frame.get("error")]
    done = [frame for frame in frames if frame.get("type", "").endswith(".completed")]
    return Seen(pictures=[base64.b64decode(frame["b64_json"]) for frame in done], error="".join(failed))


TAKERS: Mapping[tuple[str, str], Callable[[Answer], Seen]] = {
    ("NextChat", "images"): nextchat_image,
    ("NextChat", "chat"): nextchat_chat,
    ("LobeHub", "images"): lobehub_image,
    ("LobeHub", "chat"): sdk_chat,
    ("LobeHub", "whole"): lobehub_picture_by_chat,
    ("Open WebUI", "images"): open_webui_image,
    ("Open WebUI", "chat"): open_webui_chat,
    ("Cherry Studio", "images"): cherry_image,
    ("Cherry Studio", "chat"): sdk_chat,
    ("SillyTavern", "images"): tavern_image,
    ("SillyTavern", "chat"): tavern_chat,
    ("OpenAI SDK", "images"): sdk_image,
}
"""Who takes an answer, by the shell, and by what it asked: `whole` is a chat that is not streamed."""
