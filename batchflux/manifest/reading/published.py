"""Reads what `references.publish` says of the links to what is in a bucket."""

from __future__ import annotations

from batchflux.errors import quoted
from batchflux.manifest.reading.values import duration, url
from batchflux.output.stores.base import LONGEST_SIGNED
from batchflux.photos.published import PLACE

_EXAMPLE = f"https://img.example/{PLACE}"


def link_life(text: str) -> float:
    """Read how many seconds a signed link is good for, written as a time is (`2h`), at most seven days."""
    seconds = duration(text)
    if not 0 < seconds <= LONGEST_SIGNED:
        raise ValueError(f"found {quoted(text)}; allowed is a duration up to 168h (seven days), as 2h")
    return seconds


def link_template(text: str) -> str:
    """Read the template of the links to what is in a bucket: a URL with `{key}` in it, and no other braces."""
    rest = url(text.replace(PLACE, "key", 1))
    if PLACE not in text or "{" in rest or "}" in rest:
        shown = quoted(text.partition("?")[0])
        raise ValueError(f"found {shown}; allowed is a URL with {PLACE} where an object's key goes, as {_EXAMPLE}")
    return text


def link_fault(to: str | None, url: str | None, sign: float | None, timeout: float) -> str | None:
    """Return what is wrong with how references are published, where calls may take `timeout` seconds."""
    if to is None:
        return "to is missing; add it, as to: s3://bucket/refs"
    if (url is None) == (sign is None):
        found = "neither url nor sign" if url is None else "both url and sign"
        return f"found {found}; give one: url: {_EXAMPLE} where the bucket is public, or sign: 2h for signed links"
    if sign is None or sign >= timeout:
        return None
    return f"found sign: {sign:g}s; allowed is at least {timeout:g}s: limits.timeout, for an API may fetch it so late"
