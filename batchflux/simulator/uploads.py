"""Reads the content of a chat message: text, and pictures as `data:` URLs whose bytes are what they claim to be."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from batchflux.simulator.replies import invalid

_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|webp));base64,")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A reference picture that came with the request; `place` is where in the body."""

    sha256: str
    media_type: str
    place: str
    data: bytes = field(repr=False)


def sniff(data: bytes) -> str | None:
    """Return the media type that the first bytes say, of those the API takes."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def read_content(content: Any, place: str) -> tuple[str, tuple[Upload, ...]]:
    """Return the text and the pictures of one message.

    Raises:
        Refusal: the content is neither text nor a list of text and image_url parts.
    """
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list) or not content:
        raise invalid(f"{place} must be a string or a list of parts.", place)
    texts: list[str] = []
    uploads: list[Upload] = []
    for index, part in enumerate(content):
        where = f"{place}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "image_url") or set(part) != {"type", kind}:
            raise invalid(f"{where} must be {{type: text, text}} or {{type: image_url, image_url}}.", where)
        if kind == "image_url":
            uploads.append(_picture(part["image_url"], f"{where}.image_url"))
        elif isinstance(part["text"], str):
            texts.append(part["text"])
        else:
            raise invalid(f"{where}.text must be a string.", f"{where}.text")
    return "\n".join(texts), tuple(uploads)


def _picture(value: Any, place: str) -> Upload:
    if not isinstance(value, dict) or set(value) != {"url"} or not isinstance(value["url"], str):
        raise invalid(f"{place} must be {{url: data:image/...;base64,...}}.", place)
    url: str = value["url"]
    found = _DATA_URL.match(url)
    if found is None:
        remedy = "URL references belong in front of the text" if url.startswith("http") else "allowed: png, jpeg, webp"
        raise invalid(f"{place}.url must be a data:image/...;base64 URL; {remedy}.", f"{place}.url")
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{place}.url is not valid base64.", f"{place}.url") from error
    if sniff(data) != found[1]:
        raise invalid(f"{place}.url says {found[1]}, but its bytes are not that.", f"{place}.url")
    return Upload(sha256=sha256(data).hexdigest(), media_type=found[1], place=f"{place}.url", data=data)
