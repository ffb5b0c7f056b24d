"""Where pictures stand in a text: markdown images, links, HTML tags, inline data, bare base64, bare URLs.

One pass over the text, each character looked at a bounded number of times. A candidate is `closed` when something
behind it shows that it did not go on: needed when the stream broke. Of a picture that is a link to another one only the
larger, the link, is a candidate.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

_START = re.compile(
    r"(?P<mark>!?)\[(?P<label>(?:[^\[\]]|\[[^\[\]]{0,100}\](?!\()){0,300})\]\(\s{0,20}"
    r"|(?P<data>data:[\w.+/-]{0,80};[^,\s]{0,60}base64,\s?)"
    r"|(?P<url>https?:(?:\\?/){2}|(?<![\w:/\\])//(?=[\w-]{1,60}(?:\.[\w-]{1,60}){1,6}(?::\d{1,5})?/[^\s/]))"
    r"|(?<=[\"'`\s(])(?P<path>\.{0,2}/(?=[^\s\"'`<>()]{1,200}\.(?:png|jpe?g|webp|gif|bmp|avif)\b))"
    r"|(?<![\w+/=-])(?=(?-i:iVBORw0K|[/_]9j[/_]|UklGR|R0lGOD[dl]h|SUkqA|TU0AK|AAAA[\w+/-]{2}Z0eXB))(?P<b64>)",
    re.IGNORECASE,
)  # the last are the beginnings of pictures in base64: PNG, JPEG, WEBP, GIF, TIFF, AVIF and HEIC
_BASE64 = re.compile(r"[A-Za-z0-9+/_%-]*={0,2}")
_WRAP = re.compile(r"(?:\r?\n|\\r?\\n)[ \t]{0,20}")
_WIDEST_LINE = 200
_MARKDOWN_DATA = re.compile(r"\s*data:[^,)]{0,200},[A-Za-z0-9+/=_%\s-]*", re.IGNORECASE)
_MARKDOWN_URL_END = re.compile(r"[\s()<>]")
_TITLE_AND_END = re.compile(r"\s{0,20}(?:\"[^\"]{0,300}\"|'[^']{0,300}')?\s{0,20}\)")
_BARE = re.compile(
    r"(?:\\[/_~*#&=+.-]|\\u00(?:26|3[dD])|[^\s<>\"'`|^{}\\\u3000-\u3003\u3008-\u3011\u2018-\u201f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f…])+"
)
_PICTURE_PATH = re.compile(r"\.(?:png|jpe?g|webp|gif|bmp|avif|tiff?|heic)(?=$|[?#!@&])", re.IGNORECASE)
_BLANKS_WITHIN = re.compile(
    r"[^()<>\n\"]{1,2000}?\.(?:png|jpe?g|webp|gif|bmp|avif)(?:\?[^()<>\s]{0,2000})?(?=\s{0,20}\))", re.IGNORECASE
)
_RULE = re.compile(r"^[ \t]{0,8}(?:-{3,}|\*{3,}|_{3,})[ \t]{0,8}$|<(?:hr|footer)\b", re.MULTILINE | re.IGNORECASE)
_UNSEEN = re.compile(r"<(think|thinking|reasoning|(?i:head|script|style))(?:\s[^<>]{0,300})?>")
_TAG = re.compile(r"<(?:(img|a)\s[^<>]*|(/a)\s*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"\s(src|href|alt)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'<>]+))", re.IGNORECASE)
_OUTER = re.compile(r"\s{0,20}\]\(\s{0,20}")
_GOES_NO_FURTHER = re.compile(r"[,;|](?=https?://)|\[/\w{2,6}\]", re.IGNORECASE)  # another URL, or a tag of a forum
_NOT_PLAIN = re.compile(r"[^\x21-\x7e]")
_MAX_CANDIDATES = 10_000


class Kind(Enum):
    """How a candidate stands in the text."""

    IMAGE = "markdown image"
    DATA = "inline data"
    LINK = "link"
    BARE = "bare URL"


class Candidate(NamedTuple):
    """A URL, `data:` URL or bare base64 that may be the picture; `label` is the markdown label.

    `before` is what stands before it on its line, at most 40 characters; `in_footer` whether it stands below the last
    line that is drawn across.
    """

    kind: Kind
    target: str
    label: str = ""
    closed: bool = True
    before: str = ""
    in_footer: bool = False

    @property
    def named_as_picture(self) -> bool:
        """Whether its path ends like a picture file."""
        return _PICTURE_PATH.search(self.target[:5000]) is not None


def scan(text: str) -> tuple[list[Candidate], str]:
    """Return the candidates in their order, and the prose between them."""
    text = _without_tags(without_unseen(text))
    footer = max((rule.end() for rule in _RULE.finditer(text)), default=len(text))
    found: list[Candidate] = []
    prose: list[str] = []
    position = 0
    match = _START.search(text)
    while match is not None and len(found) < _MAX_CANDIDATES:
        begin = match.start()
        prose.append(text[position:begin])
        if match["url"] or match["path"]:
            candidate, position = _bare(text, begin)
        elif match["data"] or match["b64"] is not None:
            candidate, position = _data(text, match)
        else:
            candidate, position = _target(text, match)
            prose.append(match["label"])
            outer = (
                _OUTER.match(text, position)
                if candidate.kind is Kind.IMAGE and text[begin - 1 : begin] == "["
                else None
            )
            if outer is not None:
                larger, position = _read(text, outer.end(), Kind.LINK, candidate.label)
                candidate = _larger(candidate, larger)
        if candidate.target:
            before = text[max(0, begin - 40) : begin].rpartition("\n")[2].rstrip("[")
            found.append(candidate._replace(before=before, in_footer=begin >= footer))
        prose.append(" ")
        match = _START.search(text, position)
    prose.append(text[position:])
    return found, "".join(prose)


def _target(text: str, match: re.Match[str]) -> tuple[Candidate, int]:
    """Read what stands in the parentheses of `[label](...)`."""
    return _read(text, match.end(), Kind.IMAGE if match["mark"] else Kind.LINK, match["label"])


def _larger(small: Candidate, large: Candidate) -> Candidate:
    """Return the one of a linked picture that is the result: the link, unless it leads to a page."""
    path = re.sub(r"^(?:https?:)?//[^/?#]*/?", "", large.target)
    if not path:  # a picture that leads to a site's front page is its logo
        return small._replace(label="logo")
    if small.named_as_picture and not large.named_as_picture:
        return small
    return large._replace(kind=Kind.IMAGE, label="")


def without_unseen(text: str) -> str:
    """Cut out what a model thought before it answered, and what a page does not show."""
    kept, position = [], 0
    for opened in _UNSEEN.finditer(text):
        closing = f"</{opened[1]}>"
        end = text.find(closing, opened.end()) if opened.start() >= position else -2
        if end == -1:
            break
        if end >= 0:
            kept.append(text[position : opened.start()])
            position = end + len(closing)
    return "".join([*kept, text[position:]])


def _without_tags(text: str) -> str:
    """Write the pictures and links of HTML as markdown."""
    opened: list[str] = []

    def written(tag: re.Match[str]) -> str:
        said = {name.lower(): a or b or c for name, a, b, c in _ATTRIBUTE.findall(tag[0])}
        if tag[2]:
            return f"]({opened.pop()})" if opened else " "
        if (tag[1] or "").lower() == "a":
            opened.append(f"<{said['href']}>" if "href" in said else "")
            return "["
        source, label = said.get("src", ""), re.sub(r"[\[\]()]", " ", said.get("alt", ""))
        return f"![{label}]({source})" if source.startswith("data:") else f"![{label}](<{source}>)"

    return _TAG.sub(written, text) if "<" in text else text


def _read(text: str, begin: int, kind: Kind, label: str) -> tuple[Candidate, int]:
    """Read a target from where it begins behind its parenthesis."""
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
        spaced = _BLANKS_WITHIN.match(text, begin) if text[end : end + 1] in (" ", "\t") else None
        if spaced is not None and _TITLE_AND_END.match(text, end) is None:
            end = spaced.end()
        target = text[begin:end]
    closing = _TITLE_AND_END.match(text, end)
    if closing is None:
        target = _trimmed(target)
    candidate = Candidate(kind=kind, target=target, label=label, closed=closing is not None)
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
    url = _GOES_NO_FURTHER.split(run.group(), maxsplit=1)[0] if run is not None else ""
    if text[begin - 1 : begin] == "_":  # set in italics
        url = url.rstrip("_")
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
