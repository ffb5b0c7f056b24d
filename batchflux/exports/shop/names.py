"""What a shop's pictures are called: by their product and their place among its pictures, safe in files and URLs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from batchflux.errors import UsageError, quoted
from batchflux.exports.base import Called
from batchflux.exports.results_csv import TAGS
from batchflux.exports.selection import Caption
from batchflux.manifest.identity import on_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchflux.exports.selection import Vocabulary

NAME = "{{ product }}_{{ position }}"
_LONGEST = 200  # bytes of a name, to which `_before_2.jpg` comes
_IN_NAMES = "._-"
_ACCENTS = re.compile("[\u0300-\u036f]")
_MARK = "M"  # begins the categories of what combines with the letter before it


class Names:
    """Names by two templates: `product` says whose picture it is, and its pictures are numbered in their order.

    With `handles` products have names of their own in URLs, too.
    """

    def __init__(self, name: str, product: str, words: Vocabulary, *, handles: bool) -> None:
        """Compile them; UsageError: one is no template, or names what no row has."""
        self._name = Caption(name, words, "--name", ("product", "position"))
        self._product = Caption(product, words, "--product") if product else None
        self._sku, self._handle = (tags_called(tag, words.tags) for tag in ("sku", "handle"))
        self._counts: Counter[str] = Counter()
        self._handles: dict[str, str] | None = {} if handles else None
        self._owners: dict[str, str] = {}

    def of(self, row: Mapping[str, Any]) -> Called:
        """Return a picture's name, with its product, position there (from 1), handle, and note; UsageError."""
        product = self._product_of(row)
        self._counts[product] += 1
        position = self._counts[product]
        written = self._name.of(row, product=product, position=position)
        name = safe_name(written)
        if not name:
            what = f"{quoted(written)}, in which no letter or digit is left"
            raise UsageError(f"--name: the picture of {row['id']} would be called {what}.")
        words = {"product": product, "position": position, "note": row["note"]}
        return Called(name, words | {"handle": self._handle_of(product, row)})

    def _product_of(self, row: Mapping[str, Any]) -> str:
        if self._product is not None:
            return self._product.of(row).strip() or str(row["id"])
        return tag_of(row, self._sku) or str(row["id"])

    def _handle_of(self, product: str, row: Mapping[str, Any]) -> str:
        """Return what a product is called in URLs, '' where that is not wanted: its tag, or what its name gives."""
        if self._handles is None:
            return ""
        name = self._handles.setdefault(product, tag_of(row, self._handle) or handle(product))
        owner = self._owners.setdefault(name, product)
        if owner != product or not name:
            whose = f"{quoted(owner)} and {quoted(product)}" if name else quoted(product)
            remedy = "have --product tell them apart, or give them a tag handle"
            raise UsageError(f"--sheet shopify: the handle of {whose} would be {quoted(name)}: {remedy}.")
        return name


def tags_called(name: str, tags: Iterable[str]) -> list[str]:
    """Return the tags of this name, however they are written: `sku`, `SKU`; one entry may say so, another otherwise."""
    return [tag for tag in tags if tag.strip().casefold() == name]


def tag_of(row: Mapping[str, Any], tags: Iterable[str]) -> str:
    """Return what the first of these tags says that says something in a row, else ''."""
    return next((text for tag in tags if (text := str(row[TAGS + tag]).strip())), "")


def safe_name(text: str) -> str:
    """Return a file name that every file system takes, and that needs no care in a shell.

    Letters of all scripts, digits, `.`, `_` and `-` stay; what lies between becomes one `-`. URLs have to quote it.
    """
    kept = "".join(char if _stays(char) else " " for char in unicodedata.normalize("NFC", text))
    name = "-".join(kept.split())
    short = name.encode(errors="replace")[:_LONGEST].decode(errors="ignore")
    return on_windows(_begun(short).rstrip(_IN_NAMES))


def handle(text: str) -> str:
    """Return what a shop calls a product in URLs: small letters and digits, parted by `-`, without accents."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).lower())  # of what letters stand for, too
    kept = "".join(char if _is_letter(char) else " " for char in unicodedata.normalize("NFC", plain))
    return "-".join(filter(None, map(_begun, kept.split())))


def _begun(text: str) -> str:
    """Return a text from its first letter or digit on."""
    return next((text[at:] for at, char in enumerate(text) if char.isalnum()), "")


def _stays(char: str) -> bool:
    return _is_letter(char) or char in _IN_NAMES


def _is_letter(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char)[0] == _MARK
