"""Where a stranger's text becomes a URL: the one place that knows all the ways in which that fails.

What comes out can be shown, resolved and requested without a surprise: http or https, a host that is an address or an
ASCII name, a port, path and query byte for byte as signed where they are legal. User and password are left out.
"""

from __future__ import annotations

import re
from functools import lru_cache

from yarl import URL

from batchflux.errors import Code, JobError, UsageError
from batchflux.transport.connecting.ssrf import parse

_CLEAN = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_HOST_END = re.compile(r"[/?#\\]")
_NAME = re.compile(r"(?!(?:.*\.)?(?:\d+|0[xX][0-9A-Fa-f]*)\.?$)[A-Za-z0-9._~\-]{1,255}")  # not 127.1, not 0x7f000001
# yarl's own, met in 400,000 odd links; what it raises later, asked for a part, is asked for here.
_NO_URL = (ValueError, IndexError, TypeError)


@lru_cache(maxsize=1024)  # a task is asked for at the same address again and again
def to_url(link: str, base: URL | None = None) -> URL:
    """Return `link` (relative to `base`) as a URL without credentials; JobError `unsafe_url` when it is none."""
    url = _web_url(link, base, encoded=_CLEAN.fullmatch(link) is not None)  # as signed, byte for byte, if it is legal
    if url is None:
        start, _, rest = link.partition("://")
        if start.lower() in {"http", "https"}:
            host = _HOST_END.split(rest[:300], maxsplit=1)[0].rpartition("@")[2][:60]
            what = f"has a host (or port) that is none, {host!a}, or a character that no link has"
            raise JobError(Code.UNSAFE_URL, f"the link {what}, so it was not followed")
        kind = link.partition(":")[0][:20] if ":" in link else "unknown"
        raise JobError(Code.UNSAFE_URL, f"the link is no http or https URL (scheme {kind!a}), so it was not followed")
    return url.with_user(None) if url.raw_user is not None or url.raw_password is not None else url


def origin_of(base: str) -> URL:
    """Return the URL that all calls begin with; UsageError when it cannot be one, or holds credentials."""
    url = _web_url(base, None, encoded=False)
    if url is None:
        raise UsageError("provider.base_url is no http or https URL with a host; mend it and run again")
    if url.raw_user is not None or url.raw_password is not None:
        raise UsageError("provider.base_url holds credentials; take them out and name the key in provider.keys")
    return url


def _web_url(text: str, base: URL | None, *, encoded: bool) -> URL | None:
    try:
        url = URL(text, encoded=encoded)
        url = url if base is None else base.join(url)
        host = url.raw_host or ""
        known = _NAME.fullmatch(host) or (host.isascii() and parse(host) is not None)
        usable = known and url.scheme in {"http", "https"} and url.port is not None
        return url if usable and url.host and url.origin() and _CLEAN.fullmatch(str(url)) else None
    except _NO_URL:
        return None
