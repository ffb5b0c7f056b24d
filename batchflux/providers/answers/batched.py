"""What batches of any API share: steps that are about no single job, and lines as strangers send them."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from batchflux.errors import Code, JobError
from batchflux.models import HttpRequest, Job
from batchflux.providers.answers.documents import DocumentReader
from batchflux.providers.answers.reading import recoded
from batchflux.providers.answers.untrusted import UnreadableError, parse, text_of, told_text
from batchflux.providers.batches import BatchAnswer
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.models import Content, Reply

MOST_PAGES = 1_000  # of a list of batches
ENDLESS = "the list of batches does not end"
_NO_FILE_YET = re.compile(
    r"(?:no such|cannot find) file|\bfile\b.{0,80}\b(?:not found|not in an? active)", re.IGNORECASE
)
_SHOWN = 80  # characters of a line
_NO_JOB = Job(id="", key="", prompt="", style="", model="", provider="", file_name="", position=0)


def step(
    url: str,
    interpret: Callable[[DocumentReader], Reply],
    *,
    method: Literal["GET", "POST"] = "GET",
    content: Content | None = None,
    paid: bool = False,
) -> HttpRequest:
    """Return a step that is about no single job; `paid`: it may cost money, and leaves at most once."""
    reader = partial(DocumentReader, _NO_JOB, interpret, paid=paid)
    return HttpRequest(method=method, url=url, content=content, reader=reader, repeatable=not paid)


def object_in(line: bytes) -> Mapping[str, Any] | None:
    """Return the object that a line is, None where it is blank; JobError `bad_answer` where it is anything else."""
    text = text_of(line)
    try:
        found = parse(text) if text else None
    except UnreadableError:
        raise unread(line) from None
    if found is not None and not isinstance(found, dict):
        raise unread(line)
    return found


def answer(key: object, status: object, body: object) -> BatchAnswer | None:
    """Return what a line says of a job by its parts; None where they are none."""
    name = told_text(key)
    known = type(status) is int and 100 <= status < 600  # noqa: PLR2004  HTTP
    if name is None or not known or body is None:
        return None
    return BatchAnswer(key=name, status=int(str(status)), body=json.dumps(body).encode())


def count_in(counts: object, key: str) -> int | None:
    """Return how many an object says that there are of a key; None: it says nothing of it."""
    told = counts.get(key) if isinstance(counts, dict) else None
    text = str(told) if type(told) in (int, str) else ""  # 64 bits are a text in Google's JSON
    return int(text) if text.isascii() and text.isdigit() else None


def without_file(error: JobError) -> JobError:
    """Return why no batch was made; a file that the API does not have yet is no fault of the request."""
    return recoded(error, Code.SERVER, billed=False) if _NO_FILE_YET.search(error.message) else error


def unread(line: bytes) -> JobError:
    """Return that a line is not understood."""
    shown = tidy(text_of(line[: 4 * _SHOWN]), limit=_SHOWN)
    return JobError(Code.BAD_ANSWER, f"a line of the batch's answers is not understood; it starts with: {shown}")
