"""Which URLs a manifest may name, and which of its texts are URLs.

The rule: http and https only, with a host, without user and password, spaces or control characters. Messages show
a URL without its query, which may be signed.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from batchflux.manifest.yaml_nodes import quoted

MAX_URL = 8192

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?=://|:)")
_WITH_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OPAQUE = re.compile(r"(?:https?|file|data|javascript|ftp|blob):", re.IGNORECASE)
# What nearly all URLs of a table look like; a million of them need not be taken apart.
_PLAIN = re.compile(r"https?://[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?:/[A-Za-z0-9/._~%!$&'()*+,;=:-]*)?")
_BAD = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")


def is_url(text: str) -> bool:
    """Whether a reference means a URL (of whatever scheme) and not a local file."""
    return _WITH_AUTHORITY.match(text) is not None or _OPAQUE.match(text) is not None


def without_query(text: str) -> str:
    """The URL as a message may show it: cut before query and fragment, and without user and password."""
    bare = re.split(r"[?#]", text, maxsplit=1)[0]
    return re.sub(r"(://)[^/]*@", r"\1", bare)


def check_url(text: str) -> None:
    """Check a reference's or webhook's URL.

    Raises:
        ValueError: says what was found and what is allowed.
    """
    if len(text) <= MAX_URL and _PLAIN.fullmatch(text):
        return
    scheme = _SCHEME.match(text)
    name = scheme[1].lower() if scheme else ""
    if name not in {"http", "https"}:
        shown = quoted(f"{name}:...") if name in {"data", "file"} else quoted(without_query(text))
        raise ValueError(f"found {shown}; allowed is an http:// or https:// URL")
    shown = quoted(without_query(text))
    if len(text) > MAX_URL:
        raise ValueError(f"found a URL of {len(text)} characters; allowed are at most {MAX_URL}")
    if _BAD.search(text):
        raise ValueError(f"found {shown}, with a space or control character; write it as %20 or remove it")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"found {shown}, which is not a well-formed URL") from None
    if not host:
        raise ValueError(f"found {shown}, which has no host")
    if "@" in parts.netloc:
        raise ValueError(f"found {shown} with a user or password in it; remove them")


def base_url(text: str) -> str | None:
    """The address of an API: the same, without query or fragment; a trailing `/v1` is cut, for paths begin with it.

    Raises:
        ValueError: says what was found and what is allowed.
    """
    if not text:
        return None
    check_url(text)
    if "?" in text or "#" in text:
        raise ValueError(f"found {quoted(without_query(text))} with a query or fragment; remove it")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")
