"""shop: accepted pictures as JPEGs that shops take, named by product and position, with lists of them.

Pictures are images/SKU_1.jpg, the photos that they were made from before/SKU_1_before.jpg. Of what a file was made, and
what it came to, is kept in .batchflux-made, a hundred pictures a file, once those are on the disk: so what is there and
would come out the same is neither made nor read again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from batchflux.errors import StorageError
from batchflux.exports.base import Format, Loading, Noted
from batchflux.exports.results_csv import TAGS
from batchflux.exports.shards import line
from batchflux.exports.shop.options import OPTIONS, ShopOptions
from batchflux.exports.shop.pictures import WHITE_BORDER, Finish, finished, look_at
from batchflux.exports.shop.sheets import Row, Sheets

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from batchflux.exports.base import Export, Sample
    from batchflux.exports.places import Place

PICTURES, BEFORE, JOURNAL = "images", "before", ".batchflux-made"
AT_ONCE = 100  # pictures of a file of the journal
_SUFFIX = ".jpg"
_THREADS = os.cpu_count() or 1
_AMAZON_SIDE = 1000  # pixels, of the longer side
_ROOM = 1000  # bytes by which marks of a file made anew may be larger


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What `images/SKU_1.jpg` is: of what it was made, and what it came to; `thumbnail` is Base64, `remark` Noted's."""

    name: str
    made_of: str
    bytes: int
    width: int
    height: int
    border: str
    thumbnail: str
    remark: str

    @property
    def base_name(self) -> str:
        """Its name without its folder."""
        return self.name.rpartition("/")[2]


class Shop:
    """A DatasetExporter: images/, before/ and the lists."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._options: ShopOptions = export.options or ShopOptions.of({})
        self._files = export.place.pictures(PICTURES, BEFORE)
        self._sheets = Sheets(export.place, self._options, export.columns)
        self._known = _journal(export.place)
        self._threads = export.held.enter_context(ThreadPoolExecutor(_THREADS, "batchflux-shop"))
        export.held.callback(self._threads.shutdown, wait=False, cancel_futures=True)
        self._waiting: deque[tuple[Sample, Future[list[_File]]]] = deque()
        self._rows: list[Row] = []
        self._written: list[_File] = []
        self._chunks = 0
        self._closed = False
        self.loading = Loading(use="")

    def write(self, sample: Sample, image: Callable[[], bytes]) -> None:
        """Add a picture; it is made in another thread."""
        self._waiting.append((sample, self._threads.submit(self._make, sample, image)))
        while len(self._waiting) > 2 * _THREADS:
            self._take()

    def close(self) -> None:
        """Write the lists, once all pictures are on the disk."""
        if self._closed:
            return
        while self._waiting:
            self._take()
        self._keep()
        self._files.close()
        place, kept = self._export.place, {_chunk(number) for number in range(self._chunks)}
        place.remove(name for name in place.names(f"{JOURNAL}/*.jsonl") if name not in kept)
        self._sheets.write(self._rows)
        self._threads.shutdown()
        self._remark_nameless()
        self._closed = True

    def _make(self, sample: Sample, image: Callable[[], bytes]) -> list[_File]:
        """Write a picture, and the photos that it was made from; return what became of each."""
        made = [self._put(f"{PICTURES}/{sample.name}{_SUFFIX}", sample, sample.sha256, image)]
        for number, photo in enumerate(sample.references if self._options.before else (), 1):
            name = f"{BEFORE}/{sample.name}_before{f'_{number}' if number > 1 else ''}{_SUFFIX}"
            made.append(self._put(name, sample, photo.mark, photo.read, private=True))
        return made

    def _put(
        self, name: str, sample: Sample, source: str, image: Callable[[], bytes], *, private: bool = False
    ) -> _File:
        """Write a file, unless it is there; with `private` it has no metadata."""
        follows = [self._options.finish.text(), source, private, "" if private else sample.marks]
        made_of = hashlib.sha256(json.dumps(follows).encode()).hexdigest()
        there = self._known.get(name)
        same = there is not None and there.made_of == made_of
        if there and same and self._files.has(name, sample.made_at, made_of, there.bytes):
            return there
        data, remark = self._noted(image(), sample, private=private)
        look = look_at(data, self._options.finish)
        self._files.write(name, sample.made_at, made_of, lambda: data, len(data))
        return _File(
            name=name,
            made_of=made_of,
            bytes=len(data),
            width=look.width,
            height=look.height,
            border=look.border,
            thumbnail=base64.b64encode(look.thumbnail).decode(),
            remark=remark,
        )

    def _noted(self, data: bytes, sample: Sample, *, private: bool) -> Noted:
        """Return what is written of a picture, with its marks, or with `private` of a photo; StorageError."""
        finish = self._options.finish
        made = self._finished(data, sample, finish, private=private)
        noted = Noted(made) if private else sample.mark(made, data)
        if len(noted.data) > finish.max_bytes and noted.data != made:  # its marks are what is too much
            most = max(1, finish.max_bytes - (len(noted.data) - len(made)) - _ROOM)
            noted = sample.mark(self._finished(data, sample, replace(finish, max_bytes=most), private=private), data)
        return noted

    def _finished(self, data: bytes, sample: Sample, finish: Finish, *, private: bool) -> bytes:
        """Return a picture as shops take it; StorageError."""
        try:
            return finished(data, finish, private=private)
        except ValueError as error:
            what = f"a photo that {sample.id} was made from" if private else f"the picture of {sample.id}"
            raise StorageError(f"{what} {error}; or leave it out with --only or --where.") from None

    def _take(self) -> None:
        """Take in what became of the next picture."""
        sample, future = self._waiting.popleft()
        picture, *before = future.result()
        words = {"product": sample.id, "position": 1, "handle": "", "note": "", **sample.words}
        self._rows.append(
            Row(
                file=picture.base_name,
                **words,
                caption=sample.caption,
                columns=sample.columns,
                width=picture.width,
                height=picture.height,
                size=picture.bytes,
                border=picture.border,
                before=[photo.base_name for photo in before],
                thumbnail=base64.b64decode(picture.thumbnail),
            )
        )
        self._remark(picture)
        self._written += [picture, *before]
        if len(self._rows) % AT_ONCE == 0:
            self._keep()

    def _remark(self, picture: _File) -> None:
        """Count what shops may refuse, and what has marks."""
        if picture.remark:
            self._export.remarks[picture.remark] += 1
        if "shopify" in self._options.sheets and not self._options.url:
            self._export.remarks["have no address in shopify.csv, which Shopify needs: give --url"] += 1
        if picture.border not in ("", WHITE_BORDER):
            self._export.remarks["have a border that is not white all over (255)"] += 1
        if max(picture.width, picture.height) < _AMAZON_SIDE:
            self._export.remarks[f"have no side of {_AMAZON_SIDE:,} pixels, which Amazon wants"] += 1

    def _remark_nameless(self) -> None:
        """Count the pictures of no product where others have one: a cell of their table may have said nothing."""
        skus = [name for name in self._export.columns if name.strip().casefold() == f"{TAGS}sku"]
        nameless = [
            row.product == row.columns["id"] and not any(row.columns.get(sku) for sku in skus) for row in self._rows
        ]
        if 0 < sum(nameless) < len(nameless):
            self._export.remarks["say no product, unlike others, and are called by their job"] = sum(nameless)

    def _keep(self) -> None:
        """Put what was written on the disk, and keep what it was made of."""
        if not self._written:
            return
        for folder in {PICTURES, BEFORE} if self._options.before else {PICTURES}:
            self._files.settle(folder)
        self._export.place.put(_chunk(self._chunks), b"".join(line(asdict(one)) for one in self._written))
        self._chunks += 1
        self._written = []


def _journal(place: Place) -> dict[str, _File]:
    """Return what earlier exports wrote, by name; what cannot be read is made again."""
    found: dict[str, _File] = {}
    for name in place.names(f"{JOURNAL}/*.jsonl"):
        with contextlib.suppress(ValueError, TypeError):
            for text in (place.read(name) or b"").splitlines():
                one = _File(**json.loads(text))
                found[one.name] = one
    return found


def _chunk(number: int) -> str:
    return f"{JOURNAL}/{number:05}.jsonl"


EXPORTERS = {
    "shop": Format(make=Shop, accepted=True, options=OPTIONS, told=ShopOptions.of, marks=("iptc",), draws=True)
}
