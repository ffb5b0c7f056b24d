"""Fetches the references that requests name by their URLs, as real APIs do, where the option `fetch` says so."""

from __future__ import annotations

import http.client
import urllib.request
from typing import TYPE_CHECKING

from batchflux.simulator.replies import invalid
from batchflux.simulator.requests import upload_of

if TYPE_CHECKING:
    from batchflux.simulator.requests import Upload

NO_FILE = "file_download_error"
_MOST = 20 << 20  # bytes
_SECONDS = 10
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetched(url: str) -> Upload:
    """Return the picture at a web URL, or raise the Refusal of what cannot be had, or is none."""
    try:
        with _OPENER.open(url, timeout=_SECONDS) as answer:
            data = answer.read(_MOST + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise not_had(url, str(error)) from error
    if len(data) > _MOST:
        raise not_had(url, f"more than {_MOST} bytes")
    return upload_of(data, "A reference")


def not_had(url: str, why: str = "") -> Exception:
    """Return the Refusal of a link behind which there is no file."""
    return invalid(f"Failed to download the file {url}{f' ({why})' if why else ''}", None, code=NO_FILE)
