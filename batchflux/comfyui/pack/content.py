"""What makes a picture the same picture: the key by which the gateway sells it once, today and ever after."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def key_of(**parts: Any) -> str:
    """Return the key of all that changes a picture, as JSON values; the order of names and spacing mean nothing."""
    text = json.dumps({"nodes": 1, **parts}, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"comfyui-{hashlib.sha256(text.encode()).hexdigest()}"


_OWN = frozenset(  # inputs of the node, and what it needs for itself
    ("prompt", "n", "size", "model", "seed", "aspect_ratio", "image", "images", "mask", "stream", "response_format")
)


def fields_of(text: str) -> dict[str, str]:
    """Read further fields, `name: value` on each line; ValueError: one is something else, or not to be said there."""
    made: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not colon or not name or not value:
            raise ValueError(
                f"The line {line.strip()!r} in fields cannot be read: write name: value, as resolution: 2K."
            )
        if name.rstrip("[]") in _OWN:
            raise ValueError(f"{name} does not stand in fields: the node has an input for it, or needs it for itself.")
        if name in made:
            raise ValueError(f"{name} stands twice in fields: write it once.")
        made[name] = value
    return made
