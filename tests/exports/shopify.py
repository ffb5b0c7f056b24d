"""What Shopify's import of products refuses in a CSV file, or takes for something else than was meant.

In our words, after https://help.shopify.com/en/manual/products/import-export/using-csv (columns, handles, images). The
columns have the names by which shops, their exports and other programs know them; newer templates of Shopify call them
URL handle, Product image URL, Image position and Image alt text.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = {"Title", "Handle", "Image Src", "Image Position", "Image Alt Text"}
MOST_BYTES, MOST_ALT, MOST_TITLE = 15_000_000, 512, 255


def faults(data: bytes) -> list[str]:
    """Everything that is wrong with a file, none where all products come in as they are meant."""
    return list(_faults(data))


def _faults(data: bytes) -> Iterator[str]:
    if data.startswith(b"\xef\xbb\xbf"):
        yield "a byte order mark makes the first column an unknown one"
    if len(data) > MOST_BYTES:
        yield "too large"
    header, *rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
    if unknown := set(header) - KNOWN:
        yield f"unknown columns {unknown}"
    if missing := {"Title", "Handle"} - set(header):
        yield f"no columns {missing}"
        return
    yield from (f"{number}: {len(row)} cells" for number, row in enumerate(rows, 2) if len(row) != len(header))
    cells = [dict(zip(header, row, strict=False)) for row in rows]
    for number, cell in enumerate(cells, 2):
        yield from (f"{number}: {fault}" for fault in (*_of_handle(cell["Handle"]), *_of_image(cell)))
    products = [(handle, list(found)) for handle, found in groupby(cells, lambda cell: cell["Handle"])]
    if twice := [handle for handle, times in Counter(handle for handle, _ in products).items() if times > 1]:
        yield f"these begin a second time: {twice}"
    for handle, found in products:
        yield from (f"{handle}: {fault}" for fault in _of_product(found))


def _of_handle(handle: str) -> Iterator[str]:
    if not handle or any(char != "-" and not (char.isalnum() or _combines(char)) for char in handle):
        yield f"handle {handle!r}"
    if handle != handle.lower() or not all(part and part[0].isalnum() for part in handle.split("-")):
        yield f"Shopify would call {handle!r} otherwise"


def _combines(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


def _of_product(cells: list[dict[str, str]]) -> Iterator[str]:
    first, *others = (cell["Title"] for cell in cells)
    if not first.strip() or len(first) > MOST_TITLE:
        yield f"title {first!r}"
    if any(others):
        yield f"more titles {others}"
    if [cell["Image Position"] for cell in cells] != [str(number) for number in range(1, len(cells) + 1)]:
        yield f"positions {[cell['Image Position'] for cell in cells]}"


def _of_image(cell: dict[str, str]) -> Iterator[str]:
    url, alt = cell["Image Src"], cell["Image Alt Text"]
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.netloc or not url.isascii() or re.search(r"[\s<>\"{}|\\^`]", url):
        yield f"address {url!r}"
    if not unquote(parts.path).lower().endswith((".jpg", ".png", ".gif", ".webp")):
        yield f"no picture {url!r}"
    if re.search(r"_(?:thumb|small|medium)\.[a-z]+$", parts.path):
        yield f"a suffix that Shopify gives copies of its own: {url!r}"
    if len(alt.encode("utf-16-le")) // 2 > MOST_ALT:
        yield f"alt text of {len(alt)}"
    if "\n" in alt or "\r" in alt:
        yield "alt text of several lines"
