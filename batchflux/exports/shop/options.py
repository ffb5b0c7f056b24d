"""What a user can ask of a shop's export, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast, get_args

from PIL import ImageColor

from batchflux.errors import UsageError, quoted
from batchflux.exports.selection import Vocabulary
from batchflux.exports.shop.names import NAME, Names
from batchflux.exports.shop.pictures import Finish
from batchflux.exports.shop.workbook import has_openpyxl
from batchflux.manifest.reading.values import colour, size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Sheet = Literal["xlsx", "csv", "shopify", "woocommerce"]
SHEETS: tuple[Sheet, ...] = get_args(Sheet)
OPTIONS = frozenset(
    {"name", "product", "max_side", "max_bytes", "square", "ratio", "fit", "pad"}
    | {"before", "check_white", "sheet", "thumbnails", "url"}
)
MAX_SIDE, MAX_BYTES = 2048, "10MB"  # what Shopify shows at most, and what Amazon takes
_RATIO = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")
_URL = re.compile(r"https://[^\s,/]+/[^\s,]*")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopOptions:
    """The options of the format shop.

    `name` and `product` are templates, `product` '' the tag sku where a picture has one, else the job's id. `url` has
    `{name}` where a file's name belongs; '' where the pictures have no address.
    """

    finish: Finish
    sheets: tuple[Sheet, ...]
    name: str = NAME
    product: str = ""
    before: bool = False
    url: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Check what a user gave, by OPTIONS; UsageError."""
        ratio, crop = _shape(given)
        finish = Finish(
            max_side=given.get("max_side", MAX_SIDE),
            max_bytes=_read(size, "--max-bytes", given.get("max_bytes", MAX_BYTES)),
            ratio=ratio,
            crop=crop,
            pad=ImageColor.getrgb(_read(colour, "--pad", given.get("pad", "white")) or "white")[:3],
            check_white=bool(given.get("check_white")),
            thumbnail=bool(given.get("thumbnails")),
        )
        url = given.get("url", "")
        if url and not (_URL.fullmatch(url) and url.count("{name}") == 1):
            raise UsageError(f"--url: found {quoted(url)}; allowed is an address as https://img.example/{{name}}")
        templates = {name: given[name] for name in ("name", "product") if given.get(name)}
        return cls(finish=finish, sheets=_sheets(given), before=bool(given.get("before")), url=url, **templates)

    @property
    def references(self) -> bool:
        """Whether photos are wanted that pictures were made from."""
        return self.before

    def naming(self, tags: Sequence[str]) -> Names:
        """Return what calls pictures; UsageError."""
        return Names(self.name, self.product, Vocabulary(tags), handles="shopify" in self.sheets)


def _shape(given: Mapping[str, Any]) -> tuple[tuple[int, int] | None, bool]:
    """Return the ratio that pictures are brought to, and whether they are cropped to it, or else padded."""
    square, ratio, fit = (given.get(name) for name in ("square", "ratio", "fit"))
    if square and (ratio or fit):
        raise UsageError("--square pad or crop says it all: leave out --ratio and --fit, or --square.")
    if fit and not ratio:
        raise UsageError("--fit says how a picture is brought to a ratio: give --ratio too, as 4:5.")
    if square:
        ratio = "1:1"
    found = _RATIO.fullmatch(ratio) if ratio else None
    if ratio and found is None:
        raise UsageError(f"--ratio: found {quoted(ratio)}; allowed is WIDTH:HEIGHT, as 4:5")
    return (int(found[1]), int(found[2])) if found else None, "crop" in (square, fit)


def _sheets(given: Mapping[str, Any]) -> tuple[Sheet, ...]:
    asked = cast("tuple[Sheet, ...]", tuple(given.get("sheet", ())))
    sheets = asked or ("xlsx" if has_openpyxl() else "csv",)
    if "xlsx" in asked and not has_openpyxl():
        raise UsageError("--sheet xlsx needs openpyxl; install the extra: pip install 'batchflux[excel]'")
    if given.get("thumbnails") and "xlsx" not in sheets:
        remedy = "add --sheet xlsx" if has_openpyxl() else "pip install 'batchflux[excel]'"
        raise UsageError(f"--thumbnails: only a workbook (xlsx) holds pictures: {remedy}.")
    return tuple(sheet for sheet in SHEETS if sheet in sheets)


def _read(reader: Callable[[str], _Value], option: str, text: str) -> _Value:
    try:
        return reader(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
