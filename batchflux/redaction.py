"""Every way a secret leaves a text.

- `redacted` takes signatures out of a link: a signed URL is a key to the picture, and keys are not kept. Known are the
  parameters of the large clouds, names that say what they hold (`api_key`), and whatever is long enough for a secret.
- `hushed` takes out secrets that are known, whatever they look like.
- `tidy` makes a stranger's words fit for a message: one short line, without what looks like a secret.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchflux.errors import JobError
    from batchflux.models import Job, Reference

HIDDEN = "***"
_TELLING_START = 6  # characters; a shorter beginning of a secret gives nothing away
_SHORTEST = 4  # characters; what is shorter is no secret, and stands in every other word
_ENCODED = 8  # characters; what is shorter may stand in any picture's base64 by chance
_SECRET_NAME = re.compile(
    r"^(?:x-amz-|x-goog-|x-oss-|q-sign|awsaccesskeyid|ossaccesskeyid|googleaccessid|sig|policy|expires|key)"
    r"|token|secret|signature|password|credential|api[_-]?key|auth",
    re.IGNORECASE,
)
_RANDOM = 20
_MAY_HOLD_SECRETS = re.compile(r"[?#@]")
_URL = re.compile(r"https?://[^\s\"'<>]+", re.IGNORECASE)
_BUCKET = re.compile(r"(?!(?:https?|wss?|ftps?)://)[a-z][a-z0-9+.-]*://")  # there `?` and `#` are letters of a key

_BEHIND = r"(?:\.\w{1,5})?(?:\?|%3[Ff]|\\+u003[Ff])"  # between the name of an object and its query
_QUOTED = 3  # times that a link may be, less one: as it is, in a URL, and in a URL within a URL
_SLASH = r"(?:\\*/|%2[Ff])"
_REST = r"(?:\\+u00[0-9a-fA-F]{2}|[^\s\"'<>\\)\]}])+"  # of a URL, as JSON may write it

_PERCENT = re.compile(r"%[0-9A-F]{2}")
_ESCAPED = (("&<>", "04x"), ("&<>='", "04x"), ("&<>'+", "04X"))  # that JSON writes by code: Go's, Gson's and .NET's
_WITHIN_CODES = re.compile(r"[\s-]+")

LONGEST = 300
_TIDIED = 6000
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


def redacted(url: str) -> str:
    """Return the URL, without user and password, and without query and fragment when they carry a secret."""
    if not _MAY_HOLD_SECRETS.search(url) or _BUCKET.match(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].partition("#")[0]  # no URL at all
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    signed = any(max(map(len, pair)) >= _RANDOM or _SECRET_NAME.search(pair[0]) for pair in pairs)
    if signed or len(parts.fragment) >= _RANDOM:
        clean = clean._replace(query="", fragment="")
    return url if clean == parts else clean.geturl()


def without_signatures(text: str) -> str:
    """Return a text whose URLs are redacted."""
    return _URL.sub(lambda match: redacted(match.group()), text)


def queries(references: Iterable[str | None], webhook: str | None) -> list[str]:
    """Return what of a job's links is a key: the query of its webhook, and the signed ones of its references."""
    signed = [url for url in references if url is not None and redacted(url) != url]
    found = [url.partition("#")[0].partition("?")[2] for url in (*signed, webhook or "")]
    return [query for query in found if len(query) >= _ENCODED]


def without_links(text: str, references: Iterable[Reference]) -> str:
    """Return a text without what makes links to these references keys to them: their queries, where they are signed.

    Those of links that were signed before are found by what is there: the digest of a local one, the key in a bucket.
    """
    images = tuple(references)
    text = hushed(text, queries((image.url for image in images), None))
    for name in {name for image in images for name in _names(image)}:
        text = re.sub(rf"({name}{_BEHIND}){_REST}", rf"\1{HIDDEN}", text)
    return text


def without_own(text: str, job: Job, secrets: Iterable[str]) -> str:
    """Return what an answer to a job says, without these secrets, its webhook's, and what makes its links keys."""
    own = [*queries((image.url for image in job.references), job.webhook_url), job.webhook_secret or ""]
    return without_links(hushed(text, [*own, *secrets]), job.references)


def _names(image: Reference) -> Iterator[str]:
    """Yield what matches the name of a reference in links to it, however these are written."""
    yield from image.digests
    key = image.address and image.address.partition("://")[2].partition("/")[2]
    for times in range(_QUOTED) if key else ():
        parts = (key or "").split("/")
        for _ in range(times):
            parts = list(map(quote, parts))
        yield _SLASH.join(map(re.escape, parts))


def hushed(text: str, secrets: Iterable[str]) -> str:
    """Return the text without these secrets: plain, as others write them, or begun where it was cut off."""
    for secret in secrets:
        if len(secret) < _SHORTEST:
            continue
        for form in _forms(secret):
            text = text.replace(form, HIDDEN)
        cut = text.removesuffix("…")
        begun = next((n for n in range(len(secret) - 1, _TELLING_START - 1, -1) if cut.endswith(secret[:n])), 0)
        if begun and cut is not text:
            text = f"{cut[:-begun]}{HIDDEN}…"
    return text


def _forms(secret: str) -> list[str]:
    """Return how a secret is written: in URLs, JSON and HTML too, and in base64, by where in three bytes it begins."""
    as_url = [quote(secret, safe="", errors="replace"), quote(secret, errors="replace")]
    in_json = json.dumps(secret)[1:-1]
    forms = [secret, *as_url, quote_plus(secret, errors="replace"), in_json, json.dumps(in_json)[1:-1]]
    forms += [_PERCENT.sub(lambda code: code[0].lower(), text) for text in as_url]
    forms += [in_json.replace("/", r"\/"), in_json.replace("/", r"\\/")]
    forms += [_escaped(in_json, letters, digits) for letters, digits in _ESCAPED]
    forms += [secret.replace("&", r"\u0026"), secret.replace("&", "&amp;"), escape(secret), as_code(secret)]
    if len(secret) >= _ENCODED:
        for before in range(3):
            data = bytes(before) + secret.encode(errors="replace")
            own = slice(-(-before * 8 // 6), len(data) * 8 // 6)  # characters that neighbours have no bits in
            forms += [encode(data).decode()[own] for encode in (b64encode, urlsafe_b64encode)]
    return list(dict.fromkeys(forms))


def _escaped(text: str, letters: str, digits: str) -> str:
    return "".join(f"\\u{ord(letter):{digits}}" if letter in letters else letter for letter in text)


def as_code(value: object) -> str:
    """Return a code of a stranger as codes are compared: its first 100 characters, in lower case with `_` within."""
    return _WITHIN_CODES.sub("_", str(value)[:100].strip().lower())


def hush(error: JobError, secrets: Iterable[str]) -> None:
    """Take secrets out of an error's message."""
    error.message = hushed(error.message, secrets)
    error.args = (error.message,)


def tidy(text: str, *, hide: str | None = None, limit: int = LONGEST) -> str:
    """Return a stranger's words as one line of at most `limit` characters, without secrets, `hide` among them."""
    text = _DATA_URL.sub("data:…", hushed(text, [hide] if hide else []))[:_TIDIED]
    text = _QUERY.sub(r"\1", _USER.sub(r"\1", text))
    text = _NAMED.sub(r"\1\2***", _BEARER.sub(r"\1 ***", text))
    text = "".join(letter if letter.isprintable() else " " for letter in _KEY.sub("***", text))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
