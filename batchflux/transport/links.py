"""Links as text and as URLs: what may be followed, and how much of a link may be shown."""

from __future__ import annotations

import re

from yarl import URL

from batchflux.errors import Code, JobError, UsageError

_SHOWN = 300
_CLEAN = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


def to_url(link: str, base: URL | None = None) -> URL:
    """Return `link` (relative to `base`, if given) as a URL without credentials.

    A link of legal characters is taken byte for byte: servers sign links as they wrote them.

    Raises:
        JobError: `unsafe_url` when it is no http or https URL with a host.
    """
    try:
        url = URL(link, encoded=_CLEAN.fullmatch(link) is not None)
        if base is not None:
            url = base.join(url)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host)
    except ValueError:
        usable = False
    if not usable:
        kind = link.partition(":")[0][:20] if ":" in link else "unknown"
        message = f"the link is no http or https URL (scheme {kind!a}), so it was not fetched"
        raise JobError(Code.UNSAFE_URL, message)
    return url.with_user(None) if url.raw_user is not None or url.raw_password is not None else url


def origin_of(base: str) -> URL:
    """Return the URL that all calls begin with.

    Raises:
        UsageError: it is no http or https URL with a host, or holds credentials.
    """
    try:
        url = URL(base)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError("provider.base_url is no http or https URL with a host; mend it and run again")
    if url.raw_user is not None or url.raw_password is not None:
        raise UsageError("provider.base_url holds credentials; take them out and name the key in provider.keys")
    return url


def shown(url: URL) -> str:
    """Return scheme, host, port and path: no credentials, no query string, which may be a signature."""
    host = url.raw_host or ""
    netloc = f"[{host}]" if ":" in host else host
    port = "" if url.is_default_port() or url.port is None else f":{url.port}"
    return f"{url.scheme}://{netloc}{port}{url.raw_path}"[:_SHOWN]
