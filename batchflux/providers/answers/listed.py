"""Finds a request in an API's list of what it was asked: equal input, and sent at about the time.

Equal is what means the same in JSON: the order of keys is free, that of a list is not, and 3 is 3.0 but not `true`. A
local photo is equal to a data URL of the same bytes. Of an item that lacks something, or has it in another form,
nothing is known: it is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from batchflux.errors import Code, JobError
from batchflux.models import LocalImage
from batchflux.providers.answers.echoes import leads_to
from batchflux.providers.answers.untrusted import UnreadableError, decode_base64, is_data_url, told_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job
    from batchflux.providers.base import Lost

WINDOW = 120.0
"""Seconds by which an API's clock and ours may differ on when a request was sent, on its way included."""

MOST_PAGES = 200
PAGE = 100  # items
_PUT = re.compile(r"\A\w+://\S+/([0-9a-f]{64})\.\w+(?:\?\S*)?\Z")
_ADDRESS = re.compile(r"(?!https?:)\w+://[^/\s]+/.+", re.IGNORECASE)
_PAGE_BYTES = 8 << 20  # of the inputs of a page, were all as large as the job's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A lost request that is looked for page by page.

    `asked` is what it said. `found` are the ids of those that are equal so far, `cursors` lead to the pages after the
    first. `id`, `sent_at` and `input` are the names under which an item has these.
    """

    lost: Lost
    asked: Any
    id: str = "id"
    sent_at: str
    input: str
    found: tuple[str, ...] = ()
    cursors: tuple[str, ...] = ()

    def through(self, items: list[Any], is_like: Callable[[Mapping[str, Any]], bool]) -> Search:
        """Return the search after a page; `is_like` tells what else an item has to be."""
        names = [
            name
            for item in items
            if isinstance(item, dict) and (name := told_text(item.get(self.id))) is not None
            if self._near(item) and is_like(item) and equal(self.asked, item.get(self.input))
        ]
        return replace(self, found=tuple(dict.fromkeys([*self.found, *names])))

    def onward(self, cursor: str) -> Search:
        """Return the search as it goes on with another page; JobError, final: the list has no end, or is a circle."""
        if cursor in self.cursors or len(self.cursors) + 1 >= MOST_PAGES:
            said = f"the API's list of requests has no end after {len(self.cursors) + 1} pages"
            raise JobError(Code.BAD_ANSWER, said, final=True)
        return replace(self, cursors=(*self.cursors, cursor))

    def _near(self, item: Mapping[str, Any]) -> bool:
        at = moment_in(item.get(self.sent_at))
        return at is not None and abs(at - self.lost.sent_at) <= WINDOW


def page_size(job: Job) -> int:
    """Return how many items are asked for at once: fewer where photos travel within the requests."""
    files = (image.copy or image for image in job.references if image.url is None)
    inlined = sum((file.size or 0) * 4 // 3 for file in files)
    return max(1, min(PAGE, _PAGE_BYTES // (inlined + 1)))


def equal(ours: Any, theirs: Any) -> bool:
    """Whether what was sent is what an item says was asked; photos are compared only where all else is equal."""
    if isinstance(ours, Mapping):
        alike = isinstance(theirs, Mapping) and ours.keys() == theirs.keys()
        names = sorted(ours, key=lambda name: not isinstance(ours[name], str | int | float))
        return alike and all(equal(ours[name], theirs[name]) for name in names)
    if isinstance(ours, list | tuple):
        alike = isinstance(theirs, list) and len(ours) == len(theirs)
        return alike and all(equal(*pair) for pair in zip(ours, theirs, strict=True))
    if isinstance(ours, LocalImage):
        return isinstance(theirs, str) and _is_photo(ours.sha256, theirs)
    if isinstance(ours, str) and isinstance(theirs, str):
        return ours == theirs or _is_placed(ours, theirs)
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    return bool(ours == theirs)


def utc(at: float) -> str:
    """Return epoch seconds as lists take them: whole seconds, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_photo(digest: str, text: str) -> bool:
    """Whether a text is a photo of this digest: its bytes, or a link to where it was put by its content."""
    try:
        return sha256(decode_base64(text)).hexdigest() == digest if is_data_url(text) else f"/{digest}." in text
    except UnreadableError:
        return False


def _is_placed(ours: str, theirs: str) -> bool:
    """Whether two texts are one photo that was put somewhere by its content, or lies in a bucket, signed anew since."""
    if (put := _PUT.search(ours)) is not None:
        return _is_photo(put[1], theirs)
    return _ADDRESS.fullmatch(ours) is not None and leads_to(ours, theirs)


def moment_in(value: Any) -> float | None:
    """Return a time of ISO 8601 in an answer, in epoch seconds, of UTC where it names no zone; None without one."""
    try:
        when = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if when is None else (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
