"""Pictures in requests: addresses, data URLs, base64 and uploaded files, bounded and decoded strictly."""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Any

from batchflux.gateway.orders import Picture
from batchflux.gateway.reading.bodies import found, read, refused
from batchflux.manifest.reading import values

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PICTURES = 16
MAX_BYTES = 32 * 1000**2  # of one picture, decoded
_TYPE = r"image/[\w.+-]{1,60}|application/octet-stream"
_HEADER = re.compile(rf"data:(?:{_TYPE})(?:;[\w=.+-]{{1,60}}){{0,4}};base64", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{64}")  # nothing else that is meant begins so
_ALLOWED = "allowed is an http:// or https:// URL, or a data URL (data:image/png;base64, and the picture in base64)"


def pictures(value: Any, param: str) -> tuple[Picture, ...]:
    """Read a JSON parameter: one picture or a list of them, each as `link` has it."""
    listed = value if isinstance(value, list) else [value]
    bounded(listed, param)
    return tuple(picture(link(each, param), param) for each in listed)


def bounded(listed: Sequence[object], param: str) -> None:
    """Refuse more pictures than a request may bring."""
    if len(listed) > MAX_PICTURES:
        raise refused(param, f"found {len(listed)} pictures; allowed are at most {MAX_PICTURES}")


def link(value: Any, param: str) -> str:
    """Return the text that says which picture is meant: itself, or in an object `url`, `image_url` or `b64_json`."""
    inner = value
    for _ in ("image_url", "url"):  # {"image_url": {"url": ...}} is the deepest
        if isinstance(inner, dict):
            inner = next((inner[name] for name in ("image_url", "url", "b64_json") if name in inner), None)
    if not isinstance(inner, str):
        raise refused(param, f"found {found(value)}; {_ALLOWED}", "invalid_type")
    return inner


def picture(text: str, param: str) -> Picture:
    """Read a picture: an http(s) URL, which is not opened here, a data URL, or its bare base64."""
    if text[:5].lower() == "data:":
        header, comma, content = text.partition(",")
        if not comma or _HEADER.fullmatch(header) is None:
            raise refused(param, f"found {values.shown(text)}; {_ALLOWED}")
        return file(_decoded(content, param), param)
    if _BASE64.match(text):
        return file(_decoded(text, param), param)
    if values.is_url(text):
        return Picture(url=read(param, text, values.url))
    raise refused(param, f"found {values.shown(text)}; {_ALLOWED}")


def file(data: bytes, param: str) -> Picture:
    """Return a picture of bytes, as they came."""
    if not data:
        raise refused(param, "found an empty picture; send the picture's bytes")
    if len(data) > MAX_BYTES:
        raise _too_large(len(data), param)
    return Picture(data=data)


def _decoded(content: str, param: str) -> bytes:
    if len(content) > MAX_BYTES * 4 // 3 + 4:
        raise _too_large(len(content) * 3 // 4, param)
    try:
        return binascii.a2b_base64(content, strict_mode=True)
    except ValueError:  # binascii.Error is one; so is a character beyond ASCII
        raise refused(param, "found base64 that cannot be decoded; send it whole, with its = at the end") from None


def _too_large(size: int, param: str) -> Exception:
    return refused(param, f"found a picture of {size} bytes; allowed are at most {MAX_BYTES}")
