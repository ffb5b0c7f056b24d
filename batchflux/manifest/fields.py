"""From the text a user wrote to the value of a field, the same for YAML, table cells and axis values.

The rule: a converter takes text, returns the value (None: not given) and raises ValueError whose message says what
was found and what is allowed; the caller adds the place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from batchflux.manifest.job_fields import MAX_ID
from batchflux.manifest.yaml_nodes import quoted
from batchflux.manifest.values import check_url, is_url

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PROMPT = 100_000
MAX_TEXT = 10_000
MAX_TAG_NAME = 100
_SEED_BITS = 63

_RATIO = re.compile(r"([1-9][0-9]{0,5}):([1-9][0-9]{0,5})")
_RATIO_ALLOWED = "allowed is W:H from 21:9 to 9:21, as 16:9"
_INTEGER = re.compile(r"[-+]?[0-9]+")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FORMATS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def whole(text: str, lowest: int, highest: int) -> int:
    """A whole number within bounds, both included."""
    if not _INTEGER.fullmatch(text) or len(text) > len(str(-(2**64))) or not lowest <= int(text) <= highest:
        raise ValueError(f"found {quoted(text)}; allowed is a whole number from {lowest} to {highest}")
    return int(text)


def one_of(text: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if text not in allowed:
        raise ValueError(f"found {quoted(text)}; allowed is {', '.join(allowed[:-1])} or {allowed[-1]}")
    return text


def prompt(text: str) -> str:
    """The prompt: any text that is not blank."""
    if not text or text.isspace():
        raise ValueError("found nothing; a job needs a prompt")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"found {len(text)} characters; allowed are at most {MAX_PROMPT}")
    bad = UNPRINTABLE.search(text)
    if bad is not None:
        raise ValueError(f"found the character U+{ord(bad.group()):04X}; remove it")
    return text


def line_of_text(text: str) -> str | None:
    """Text on one line; empty is not given."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"found {len(text)} characters; allowed are at most {MAX_TEXT}")
    bad = _CONTROL.search(text)
    if bad is not None:
        raise ValueError(f"found the character U+{ord(bad.group()):04X}; allowed is text on one line")
    return text.strip() or None


def tag(text: str) -> str:
    """A tag's value: any text, empty too."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"found {len(text)} characters; allowed are at most {MAX_TEXT}")
    bad = UNPRINTABLE.search(text)
    if bad is not None:
        raise ValueError(f"found the character U+{ord(bad.group()):04X}; remove it")
    return text


def is_tag_name(name: str) -> bool:
    """Whether a tag may have this name, which becomes a column's."""
    return 0 < len(name) <= MAX_TAG_NAME and _CONTROL.search(name) is None and name == name.strip()


def job_id(text: str) -> str | None:
    """An id that can name a file; empty is not given."""
    if not text:
        return None
    if len(text) > MAX_ID:
        raise ValueError(f"found {len(text)} characters; an id has at most {MAX_ID}")
    if "/" in text or "\\" in text or _CONTROL.search(text) or text in {".", ".."} or text != text.strip():
        allowed = "an id has no slash, backslash, control character or space at its ends, and is not . or .."
        raise ValueError(f"found {quoted(text)}; {allowed}")
    return text


def aspect_ratio(text: str) -> str | None:
    """A ratio as written, W:H; empty keeps the reference's."""
    compact = text.replace(" ", "")
    if not compact:
        return None
    match = _RATIO.fullmatch(compact)
    if match is None:
        raise ValueError(f"found {quoted(text)}; {_RATIO_ALLOWED}")
    width, height = int(match[1]), int(match[2])
    if width * 9 > height * 21 or width * 21 < height * 9:
        raise ValueError(f"found {quoted(text)}; {_RATIO_ALLOWED}")
    return compact


def output_format(text: str) -> str | None:
    """Jpeg or png; jpg is jpeg."""
    if not text:
        return None
    if text not in _FORMATS:
        raise ValueError(f"found {quoted(text)}; allowed is jpeg or png")
    return _FORMATS[text]


def seed(text: str) -> int | None:
    """A whole number of at most 64 bits."""
    if not text:
        return None
    try:
        return whole(text, -(2**_SEED_BITS), 2**_SEED_BITS - 1)
    except ValueError:
        raise ValueError(f"found {quoted(text)}; allowed is a whole number of at most 64 bits, as 42") from None


def safety_tolerance(text: str) -> int | None:
    """0 (strict) to 6."""
    return whole(text, 0, 6) if text else None


def prompt_upsampling(text: str) -> bool | None:
    """True or false, as YAML and spreadsheets write them; `yes`, `on` and 1 may be meant otherwise."""
    if not text:
        return None
    if text not in _BOOLS:
        raise ValueError(f"found {quoted(text)}; write true or false")
    return _BOOLS[text]


def variant(text: str) -> int | None:
    """1, 2, ...: which deliberate copy this is."""
    return whole(text, 1, 1_000_000) if text else None


def style(text: str) -> str | None:
    """A call style, or auto."""
    return one_of(text, ("auto", "standard", "chat")) if text else None


def webhook_url(text: str) -> str | None:
    """An http(s) URL that the provider may call."""
    return url(text) if text else None


def url(text: str) -> str:
    """An http(s) URL with a host and without credentials."""
    check_url(text)
    return text


def reference(text: str) -> str | None:
    """A reference image: an http(s) URL, or the path of a local file; empty is not given."""
    if not text:
        return None
    if is_url(text):
        return url(text)
    bad = _CONTROL.search(text)
    if bad is not None:
        raise ValueError(f"found the character U+{ord(bad.group()):04X} in a path; remove it")
    return text


CONVERTERS: Final[dict[str, Callable[[str], Any]]] = {
    "id": job_id,
    "prompt": prompt,
    "seed": seed,
    "aspect_ratio": aspect_ratio,
    "output_format": output_format,
    "safety_tolerance": safety_tolerance,
    "prompt_upsampling": prompt_upsampling,
    "model": line_of_text,
    "style": style,
    "variant": variant,
    "webhook_url": webhook_url,
}
