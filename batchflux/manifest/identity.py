"""What a job is known by: its key, its id and its file name.

The rule: the key is SHA-256 over a canonical JSON of everything that changes the picture, and of nothing else, so
that editing ids, tags, tables or the order of jobs re-runs nothing. FORMAT changes only when keys must. An id that
is not given is a slug of the prompt and 8 digits of the key. A file name is what its template gives, as long as it
stays below `images/`, can be written on every common file system, and takes no folder from data.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring_ascii

from batchflux.manifest.yaml_nodes import quoted

FORMAT = 1
FOLDER = "images/"
MAX_COMPONENT = 240  # bytes; file systems take 255, and temporary names need a few
MAX_PATH = 1000
_SLUG = 48
_SHORT, _LONG = 8, 16

_WORD = re.compile(r"[a-z0-9]+")
_DEVICE = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?"
_EASY = re.compile(rf"(?!{_DEVICE}$)[A-Za-z0-9_-](?:[A-Za-z0-9._ -]{{0,180}}[A-Za-z0-9_-])?", re.IGNORECASE)
_RESERVED = re.compile(_DEVICE, re.IGNORECASE)
# Control characters, among them those that turn the direction of text, so that a name reads as another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Scalars = tuple[int | None, str | None, str | None, int | None, bool | None, int]


@lru_cache(maxsize=256)
def _head(provider: str, model: str, style: str) -> str:
    texts = ",".join(encode_basestring_ascii(text) for text in (provider, model, style))
    return f"[{FORMAT},{texts},"


def _json(value: float | str | bool | None) -> str:  # noqa: FBT001  one of JSON's scalars
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return encode_basestring_ascii(value) if isinstance(value, str) else str(value)


@lru_cache(maxsize=4096)
def _tail(scalars: Scalars) -> str:
    return ",".join(map(_json, scalars)) + "]"


def key_of(api: tuple[str, str, str], prompt: str, references: tuple[str, ...], scalars: Scalars) -> str:
    """The key: 64 hex digits.

    Args:
        api: provider, model and call style.
        prompt: as sent.
        references: what stands for each (see `references.identity`), in order.
        scalars: seed, aspect_ratio, output_format, safety_tolerance, prompt_upsampling, variant.
    """
    sources = ",".join(map(encode_basestring_ascii, references)) if references else ""
    text = f"{_head(*api)}{encode_basestring_ascii(prompt)},[{sources}],{_tail(scalars)}"
    return sha256(text.encode("ascii")).hexdigest()


def slug(prompt: str) -> str:
    """The first words of the prompt in lower case ASCII, at most 48 characters, else `job`."""
    start = prompt[:400]
    if not start.isascii():
        start = unicodedata.normalize("NFKD", start).encode("ascii", "ignore").decode()
    joined = "-".join(_WORD.findall(start.lower()))
    if len(joined) > _SLUG:
        cut = joined[: _SLUG + 1]
        joined = cut[: cut.rfind("-")] if "-" in cut else joined[:_SLUG]
    return joined or "job"


def default_id(prompt: str, key: str, *, long: bool = False) -> str:
    """The id of a job that was given none; `long` where 8 digits would name two jobs."""
    return f"{slug(prompt)}-{key[: _LONG if long else _SHORT]}"


def checked_name(name: str) -> str:
    """The file name below the output folder.

    Raises:
        ValueError: it would leave the folder, or cannot be a file's name everywhere; says which and why.
    """
    if _EASY.fullmatch(name):
        return FOLDER + name
    reason = _bad_path(name) or next(filter(None, map(_bad_component, name.split("/"))), None)
    if reason is not None:
        raise ValueError(f"the file name {quoted(name)} {reason}")
    return FOLDER + name


def _bad_path(name: str) -> str | None:
    if name.startswith("/"):
        return "is absolute; allowed is a name inside the output folder"
    if _CONTROL.search(name):
        return "has a control character"
    if "\\" in name:
        return "has a backslash; folders are written with /"
    if len(name) > MAX_PATH:
        return f"has more than {MAX_PATH} characters"
    return None


def _bad_component(part: str) -> str | None:
    if part == "..":
        return "leaves the output folder"
    if not part:
        return "has an empty part"
    if part.startswith("."):
        return "starts a part with a dot, which hides the file"
    if part != part.strip() or part.endswith("."):
        return "has a part with a space at its ends, or a dot at its end"
    if len(part.encode()) > MAX_COMPONENT:
        return f"has a part of more than {MAX_COMPONENT} bytes"
    return "is reserved for a device on some systems" if _RESERVED.fullmatch(part) else None


def folded(name: str) -> str:
    """What two names have in common when a file system that ignores case takes them for one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
