"""Where pictures stand in the text of a chat answer: markdown images, links, inline data, bare URLs.

One pass over the text, each character looked at a bounded number of times. A candidate is `closed` when something
behind it shows that it did not go on: needed when the stream broke.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

_START = re.compile(
    r"(?P<mark>!?)\[(?P<label>(?:[^\[\]]|\[[^\[\]]{0,100}\](?!\()){0,300})\]\(\s{0,20}"
    r"|(?P<data>data:image/[\w.+-]{1,40};[^,\s]{0,60}base64,)"
    r"|(?P<url>https?:(?:\\?/){2})",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_%-]*={0,2}")
_WRAP = re.compile(r"(?:\r?\n|\\r?\\n)[ \t]{0,20}")
_WIDEST_LINE = 200
_MARKDOWN_DATA = re.compile(r"\s*data:[^,)]{0,200},[A-Za-z0-9+/=_%\s-]*", re.IGNORECASE)
_MARKDOWN_URL_END = re.compile(r"[\s()<>]")
_TITLE_AND_END = re.compile(r"\s{0,20}(?:\"[^\"]{0,300}\"|'[^']{0,300}')?\s{0,20}\)")
_BARE = re.compile(
    r"(?:\\/|\\u00(?:26|3[dD])|[^\s<>\"'`|^{}\\\u3000-\u3003\u3008-\u3011\u2018-\u201f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f…])+"
)
_PICTURE_PATH = re.compile(r"\.(?:png|jpe?g|webp|gif|bmp|avif)(?=$|[?#!@])", re.IGNORECASE)
_NOT_PLAIN = re.compile(r"[^\x21-\x7e]")
_MAX_CANDIDATES = 10_000


class Kind(Enum):
    """How a candidate stands in the text."""

    IMAGE = "markdown image"
    DATA = "inline data"
    LINK = "link"
    BARE = "bare URL"


class Candidate(NamedTuple):
    """A URL or `data:` URL that may be the picture; `label` is the markdown label."""

    kind: Kind
    target: str
    label: str = ""
    closed: bool = True

    @property
    def named_as_picture(self) -> bool:
        """Whether its path ends like a picture file."""
        return _PICTURE_PATH.search(self.target[:5000]) is not None


def scan(text: str) -> tuple[list[Candidate], str]:
    """Return the candidates in their order, and the prose between them."""
    found: list[Candidate] = []
    prose: list[str] = []
    position = 0
    match = _START.search(text)
    while match is not None and len(found) < _MAX_CANDIDATES:
        prose.append(text[position : match.start()])
        if match["url"]:
            candidate, position = _bare(text, match.start())
        elif match["data"]:
            candidate, position = _data(text, match)
        else:
            candidate, position = _target(text, match)
            prose.append(match["label"])
        if candidate.target:
            found.append(candidate)
        prose.append(" ")
        match = _START.search(text, position)
    prose.append(text[position:])
    return found, "".join(prose)


def _target(text: str, match: re.Match[str]) -> tuple[Candidate, int]:
    """Read what stands in the parentheses of `[label](...)`."""
    begin, kind = match.end(), Kind.IMAGE if match["mark"] else Kind.LINK
    data = _MARKDOWN_DATA.match(text, begin)
    if data is not None and _TITLE_AND_END.match(text, data.end()):
        target, end = data.group(), data.end()
    elif data is not None and (head := _START.match(text, begin)) is not None and head["data"]:
        # Never closed: only what is surely base64 belongs to it.
        return _data(text, head)
    elif text.startswith("<", begin):
        end = text.find(">", begin, begin + 10_000)
        target, end = (text[begin + 1 : end], end + 1) if end > 0 else ("", begin + 1)
    else:
        end = _balanced_end(text, begin)
        target = text[begin:end]
    closing = _TITLE_AND_END.match(text, end)
    if closing is None:
        target = _trimmed(target)
    candidate = Candidate(kind=kind, target=target, label=match["label"], closed=closing is not None)
    return candidate, closing.end() if closing is not None else end


def _balanced_end(text: str, begin: int) -> int:
    """Find the end of a URL whose own parentheses come in pairs."""
    depth = 0
    for mark in _MARKDOWN_URL_END.finditer(text, begin):
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
        if depth < 0 or mark[0] not in "()":
            return mark.start()
    return len(text)


def _data(text: str, match: re.Match[str]) -> tuple[Candidate, int]:
    """Read an inline picture; base64 that is wrapped at a fixed width goes on over line ends."""
    pieces: list[str] = []
    position, width = match.end(), 0
    while True:
        run = _BASE64.match(text, position)
        piece = run.group() if run is not None else ""
        if pieces and (not piece or len(piece) > width):
            break
        pieces.append(piece)
        position += len(piece)
        width = width or len(piece)
        wrap = _WRAP.match(text, position)
        if wrap is None or len(piece) != width or width > _WIDEST_LINE or piece.endswith("="):
            break
        position = wrap.end()
    closed = text.startswith((")", '"', "'", ">", "`", '\\"'), position)
    target = match.group() + "".join(pieces)
    return Candidate(kind=Kind.DATA, target=target, closed=closed), position


def _bare(text: str, begin: int) -> tuple[Candidate, int]:
    """Read a URL in prose and leave the sentence's punctuation, and words glued to it, behind."""
    run = _BARE.match(text, begin)
    url = run.group() if run is not None else ""
    ascii_part = _NOT_PLAIN.split(url, maxsplit=1)[0]
    glued = "?" in ascii_part or _PICTURE_PATH.search(ascii_part) or not _PICTURE_PATH.search(_trimmed(url))
    url = _trimmed(ascii_part if len(ascii_part) < len(url) and glued else url)
    # An unfinished bare URL cannot be told from a finished one at the end of a broken stream.
    return Candidate(kind=Kind.BARE, target=url, closed=False), begin + max(len(url), 1)


def _trimmed(url: str) -> str:
    """Cut trailing punctuation, and closing brackets that the URL did not open."""
    end = len(url)
    surplus = {close: url.count(close) - url.count(open_) for open_, close in ("()", "[]")}
    while end > 0:
        last = url[end - 1]
        if last in surplus:
            if surplus[last] <= 0:
                break
            surplus[last] -= 1
        elif last not in ".,;:!?*~":
            break
        end -= 1
    return url[:end]
