"""Objects in buckets, as a manifest names them: by their addresses."""

from __future__ import annotations

from batchflux.errors import quoted
from batchflux.manifest.reading import values
from batchflux.output.stores.base import Address, in_bucket

EXAMPLE = "s3://bucket/photos/mug.jpg"
REMOTE = r"[a-z][a-z0-9+.-]*://"
"""How references begin that are not local; a regular expression."""


def is_object(text: str) -> bool:
    """Whether a reference, or a file that a manifest names, is meant as an object in a bucket."""
    return in_bucket(text) and not text.startswith("file:")  # which is written as a path


def object_address(text: str) -> str:
    """Read the address of one object in a bucket. A key may hold nearly any character, blanks and `?` too."""
    values.bounded(text, values.MAX_URL, values.CONTROL, " in an address; remove it")
    parts = Address.of(text).key.split("/")
    if not parts[-1]:
        raise ValueError(f"found {quoted(text)}, which names no file in its bucket; allowed is one, as {EXAMPLE}")
    if not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(f"found {quoted(text)}, in which a name is empty, . or ..; write it without, as {EXAMPLE}")
    return text
