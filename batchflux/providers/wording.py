"""How an answer's words may appear in our messages: short, on one line, and with nothing secret in them.

Query strings are cut from URLs (they hold signatures), and whatever looks like a key, a token or the job's webhook
secret is replaced by `***`.
"""

from __future__ import annotations

import re

from batchflux.errors import hushed

LONGEST = 300
_READ = 6000

_DATA_URL = re.compile(r"data:[\w/.+-]{0,60};\s*base64\s*,[A-Za-z0-9+/=_-]*", re.IGNORECASE)
_QUERY = re.compile(r"(https?:(?:\\?/){2}[^\s?#\"'<>]*)[?#][^\s\"'<>]*", re.IGNORECASE)
_USER = re.compile(r"(https?:(?:\\?/){2})[^\s/@\"'<>]{1,300}@", re.IGNORECASE)
_KEY = re.compile(r"\b(?:sk|pk|rk|ak|key)[-_][A-Za-z0-9_*.\-]{5,}", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=*-]{6,}", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(api[_-]?key|access[_-]?token|authorization|webhook_secret|secret|password)"
    r"(\\?[\"']?\s*[:=]\s*\\?[\"']?)(?:bearer\s+)?[^\s\"'\\,;}]+",
    re.IGNORECASE,
)
_BLANK = re.compile(r"\s+")


def tidy(text: str, *, hide: str | None = None, limit: int = LONGEST) -> str:
    """Return the text as one line of at most `limit` characters, without secrets.

    Args:
        text: words of an answer.
        hide: a secret of the job (its webhook secret) to blot out wherever it stands.
        limit: characters, the ellipsis included.
    """
    if hide:
        text = hushed(text, [hide])
    text = _DATA_URL.sub("data:…", text)[:_READ]
    text = _QUERY.sub(r"\1", _USER.sub(r"\1", text))
    text = _NAMED.sub(r"\1\2***", _BEARER.sub(r"\1 ***", text))
    text = "".join(letter if letter.isprintable() else " " for letter in _KEY.sub("***", text))
    text = _BLANK.sub(" ", text).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
