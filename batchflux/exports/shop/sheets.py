"""The lists of a shop's pictures: for people (products.xlsx, products.csv), for Shopify's and WooCommerce's importers.

Cells are such that no spreadsheet runs one. What an importer's column is not there for keeps its value in the shop: so
there are only those that say which product it is, and what pictures it has.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchflux.exports.base import neutralised
from batchflux.exports.results_csv import TAGS
from batchflux.exports.shop.names import tag_of, tags_called
from batchflux.exports.shop.workbook import write_workbook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from batchflux.exports.places import Place
    from batchflux.exports.shop.options import Sheet, ShopOptions

FILES: dict[Sheet, str] = {
    "xlsx": "products.xlsx",
    "csv": "products.csv",
    "shopify": "shopify.csv",
    "woocommerce": "woocommerce.csv",
}
ALT_CHARACTERS = 512  # Shopify's bound, in UTF-16 units
SHOPIFY = ("Handle", "Title", "Image Src", "Image Position", "Image Alt Text")
_BOM = "\ufeff"
_COLUMNS = ("id", "prompt")  # of those of the export
_FIRST, _LAST = ("file", "product", "position"), ("width", "height", "bytes", "white border", "note", "before", "url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A picture of the lists: `file` is its name, `caption` what is said of it, `columns` are those of the export.

    `size` is in bytes; `before` names the photos that it was made from; `border` and `thumbnail` are those of Look.
    """

    file: str
    product: str
    position: int
    handle: str
    caption: str
    columns: Mapping[str, Any]
    width: int
    height: int
    size: int
    border: str
    note: str
    before: Sequence[str]
    thumbnail: bytes


class Sheets:
    """The lists of an export in `place`, whose columns have these names."""

    def __init__(self, place: Place, options: ShopOptions, columns: Iterable[str]) -> None:
        self._place, self._options = place, options
        self._columns = [name for name in columns if name in _COLUMNS or name.startswith(TAGS)]
        tags = (name.removeprefix(TAGS) for name in self._columns if name.startswith(TAGS))
        self._titles = tags_called("title", tags)

    def write(self, rows: Sequence[Row]) -> None:
        """Write the lists that are asked for, and remove others; StorageError."""
        makers: dict[Sheet, Callable[[Sequence[Row]], str]] = {
            "csv": self._products,
            "shopify": self._shopify,
            "woocommerce": self._woocommerce,
        }
        for sheet, name in FILES.items():
            if sheet not in self._options.sheets:
                self._place.remove([name])
            elif sheet == "xlsx":
                thumbnails = self._options.finish.thumbnail
                with self._place.writing(name) as file:
                    cells = ((self._row(row), row.thumbnail) for row in rows)
                    write_workbook(file, self._header, cells, thumbnails=thumbnails)
            else:
                self._place.put(name, makers[sheet](rows).encode(errors="replace"))

    @property
    def _header(self) -> list[str]:
        return [*_FIRST, "caption", *self._columns, *_LAST]

    def _row(self, row: Row) -> list[Any]:
        first = [row.file, row.product, row.position, row.caption, *(row.columns[name] for name in self._columns)]
        before = " ".join(row.before)
        url = self._url(row) if self._options.url else ""
        return [*first, row.width, row.height, row.size, row.border, row.note, before, url]

    def _products(self, rows: Sequence[Row]) -> str:
        return _BOM + _csv(self._header, map(self._row, rows))

    def _shopify(self, rows: Sequence[Row]) -> str:
        """Return a file for Shopify: a row for each picture, those of a product one after the other."""
        lines = []
        for product, pictures in _by_product(rows).items():
            title = self._title(pictures) or product
            for at, row in enumerate(pictures):
                lines.append([row.handle, "" if at else title, self._url(row), at + 1, alt_text(row.caption)])
        return _csv(SHOPIFY, lines)

    def _woocommerce(self, rows: Sequence[Row]) -> str:
        """Return a file for WooCommerce: a row for each product with all its pictures, the first as the main one."""
        lines = []
        for product, pictures in _by_product(rows).items():
            title = [self._title(pictures) or product] if self._titles else []
            lines.append([product, *title, ", ".join(map(self._url, pictures))])
        return _csv(["SKU", *(["Name"] if self._titles else []), "Images"], lines)

    def _title(self, pictures: Sequence[Row]) -> str:
        """Return the first title that a product's pictures have, '' where they have none."""
        return next((text for row in pictures if (text := tag_of(row.columns, self._titles))), "")

    def _url(self, row: Row) -> str:
        """Return a picture's address, or its file's name where there is none."""
        return self._options.url.replace("{name}", quote(row.file, safe="")) if self._options.url else row.file


def alt_text(text: str) -> str:
    """Return what is said of a picture where it cannot be seen: a line within the bound, cut between words."""
    line = neutralised(" ".join(text.split()))
    if _units(line) <= ALT_CHARACTERS:
        return line
    cut = line.encode("utf-16-le", errors="replace")[: 2 * (ALT_CHARACTERS - 1)].decode("utf-16-le", errors="ignore")
    return f"{cut.rpartition(' ')[0] or cut}…"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", errors="replace")) // 2


def _by_product(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.product].append(row)
    return found


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows([neutralised(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return file.getvalue()
