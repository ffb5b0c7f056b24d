"""What an answer merely repeats of the request: its references, its prompt, its JSON.

URLs are compared in one form, so that HTML-, JSON- and percent-escaped spellings are the same URL. A JSON object that
has a request's keys and none of an answer's is an echo, and so is a fenced block that looks like one.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import unquote

from batchflux.models import Inline
from batchflux.providers.answers.markup import scan
from batchflux.providers.answers.untrusted import objects
from batchflux.redaction import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Job

_REQUEST_KEYS = frozenset({"prompt", "messages", "input_image"})
_ANSWER_KEYS = frozenset({"data", "choices", "output", "result", "results", "url", "b64_json", "error"})
_PICTURE_KEYS = frozenset({"image", "images", "image_url"})
_FENCED_REQUEST = re.compile(r'"(?:prompt|messages|model)"\s*:')
_OPENED_REQUEST = re.compile(r"\{\s*" + _FENCED_REQUEST.pattern)
_URL_IN_PROMPT = re.compile(r"https?://[^\s<>\"'`]+", re.IGNORECASE)
_IN_BUCKET = re.compile(r"(?!https?:)\w+://", re.IGNORECASE)
_SCHEME_AND_HOST = re.compile(r"^\w+://[^/?#]*")
_ESCAPED = re.compile(r"\\([/_~*#&=+.()\[\]-])")
_AMPERSAND = re.compile(r"&(?:amp|#38|#x26);", re.IGNORECASE)
_UNQUOTINGS = 3
_SAFE_TO_CUT = 12


def spelled_out(url: str) -> str:
    """Undo the JSON, HTML and markdown escapes that a URL may come with."""
    if "\\" in url:
        url = url.replace("\\u0026", "&").replace("\\u003d", "=").replace("\\u003D", "=")
        url = _ESCAPED.sub(r"\1", url)
    return _AMPERSAND.sub("&", url) if "&" in url else url


def canonical(url: str) -> str:
    """Return the one form in which URLs are compared, http as https; never the one that is fetched."""
    url = spelled_out(url.strip())
    for _ in range(_UNQUOTINGS):
        quoted, url = url, spelled_out(unquote(url))
        if url == quoted:
            break
    url = url.partition("#")[0].rstrip("/?")
    return _SCHEME_AND_HOST.sub(lambda head: head[0].lower().partition("//")[2], url)


class Own:
    """What is the job's own and no result: its references, the URLs in its prompt and options, its webhook."""

    def __init__(self, job: Job) -> None:
        urls = [image.url for image in job.references if image.url is not None]
        urls += [candidate.target for candidate in scan(job.prompt)[0]]
        urls += _URL_IN_PROMPT.findall(job.prompt)
        urls += _URL_IN_PROMPT.findall(str(dict(job.options)))
        urls += [job.webhook_url] if job.webhook_url else []
        urls += [f"{url.partition('?')[0]}?{HIDDEN}" for url in urls if "?" in url]  # as in an answer that was kept
        self._urls = frozenset(canonical(url) for url in urls)
        self._places = [text for image in job.references for text in (image.url, image.source) if _is_place(text)]
        self._digests = frozenset(digest for image in job.references for digest in image.digests)
        self._prompt = job.prompt

    def is_url(self, url: str) -> bool:
        """Whether the URL, in any spelling, is one that the request held.

        So is a link to what was put into a bucket, or lies there, whatever its signature was.
        """
        url = canonical(url)
        put = any(name in url for name in self._digests)
        return put or url in self._urls or any(leads_to(place, url) for place in self._places)

    def inline(self, data: bytes) -> Inline | None:
        """Return a picture that came with the answer; None when it is one of the local references."""
        digest = hashlib.sha256(data).hexdigest() if self._digests else None
        return None if digest in self._digests else Inline(data=data, sha256=digest)

    def asks_for(self, word: str) -> bool:
        """Whether the prompt has this word, so that a picture's name may have it too."""
        return word.casefold() in self._prompt.casefold()

    def without_prompt(self, prose: str) -> str:
        """Cut the job's prompt out of prose, so that its words are not taken for the provider's."""
        words = self._prompt.split()
        pattern = r"[\s>]+".join(map(re.escape, words))
        # A prompt of one short word must not be cut out of the middle of the provider's words.
        if sum(map(len, words)) < _SAFE_TO_CUT:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        return re.sub(pattern, " ", prose) if words else prose


def leads_to(address: str, url: str) -> bool:
    """Whether a link, however signed, leads to what lies at a bucket's address; other hosts have such names, too."""
    place = canonical(address)
    bucket, key = place.partition("/")[::2]
    path = canonical(url.partition("?")[0]).partition("/")[2]
    return path == key or f"/{path}".endswith(f"/{bucket}/{key}")


def _is_place(text: str | None) -> TypeGuard[str]:
    return text is not None and _IN_BUCKET.match(text) is not None


def is_request(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the request sent back."""
    if not _ANSWER_KEYS.isdisjoint(value):
        return False
    if not _REQUEST_KEYS.isdisjoint(value) or value.get("role") in ("user", "system"):
        return True
    return "model" in value and _PICTURE_KEYS.isdisjoint(value)


def without_json(text: str, *, whole: bool = True) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """Cut the JSON objects out of a text; return it, and those that are no echoes of the request, as text and object.

    An echo is also cut out where it is fenced and not quite JSON, or where a broken stream left it open.
    """
    kept: list[str] = []
    told: list[tuple[str, dict[str, Any]]] = []
    position = 0
    for start, end, value in objects(text):
        kept += [text[position:start], "\n"]
        position = end
        if not is_request(value):
            told.append((text[start:end], value))
    kept.append(text[position:])
    parts = "".join(kept).split("```")
    for index in range(1, len(parts) - 1, 2):  # fenced requests that are not quite JSON: relays shorten long values
        if _FENCED_REQUEST.search(parts[index]):
            parts[index] = "\n"
    rest = "```".join(parts)
    opened = None if whole else _OPENED_REQUEST.search(rest)
    return rest[: opened.start()] if opened is not None else rest, told
