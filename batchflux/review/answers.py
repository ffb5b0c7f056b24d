"""How answers are put: JSON, and one sentence for what failed."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from batchflux.errors import StorageError
from batchflux.ledger.reviews import NoSuchJobError, UnlistedJobError
from batchflux.review.bodies import BadBodyError
from batchflux.review.store import NoLedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGITS = 18


def dumps(value: Any) -> str:
    """Return JSON; text that is no Unicode (a lone surrogate in a file's name) is written as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def since_of(text: str) -> int:
    """Return a sequence number that a client sent.

    Raises:
        HTTPBadRequest: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise web.HTTPBadRequest(text="since must be a whole number.")
    return int(text)


@contextmanager
def cut_off() -> Iterator[None]:
    """Break the connection when the folder fails while an answer is on its way: half an answer must not look whole."""
    try:
        yield
    except StorageError as error:
        raise ConnectionResetError(str(error)) from error


@web.middleware
async def explain(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer what failed with one sentence: JSON below /api, else text."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        status, text = error.status, error.text or error.reason
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    except BadBodyError as error:
        status, text, headers = 400, str(error), None
    except NoLedgerError:
        status, text, headers = 409, "Nothing has been run in this folder yet.", None
    except NoSuchJobError:
        status, text, headers = 404, "There is no such picture in this folder (any more); reload the page.", None
    except UnlistedJobError:
        status, text, headers = 409, "The manifest does not list this job any more, so no run would redo it.", None
    except StorageError as error:
        status, text, headers = 503, str(error), None
    else:
        return response
    if request.path.startswith("/api/"):
        return web.json_response({"error": text}, status=status, headers=headers)
    return web.Response(status=status, text=f"{text}\n", headers=headers)
