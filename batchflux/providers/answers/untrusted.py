"""JSON, XML and base64 from strangers: what can be read is read, what cannot is one error, never a crash.

A relay may send nesting too deep for the parser, integers of any length and broken UTF-8. Reading is linear in the size
of the text, whatever it is.
"""

from __future__ import annotations

import binascii
import html
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

DECODED_AT_ONCE = 1 << 18  # characters of base64, a multiple of 4; they keep the interpreter for a millisecond
_LONGEST_INTEGER = 300
_MOST_QUOTES = 3  # JSON as text in JSON as text
_MOST = 10**9  # tokens of one answer
_FREE_READING = 100_000
_OBJECT_START = re.compile(r"\{\s*[\"}]")
_DATA_URL = re.compile(r"\s*data:[^,]{0,200}?;\s*base64\s*,", re.IGNORECASE)
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(")?|[{}\[\]:,]', re.DOTALL)
_XML = re.compile(
    r"<!\[CDATA\[(?P<raw>.*?)\]\]>|<(?P<end>/?)(?:[\w.-]{1,60}:)?(?P<name>[A-Za-z_][\w.-]{0,60})[^<>]*?(?P<empty>/?)>"
    r"|(?P<text>[^<]+)",
    re.DOTALL,
)
_CHARSET = re.compile(
    r";\s*charset\s*=\s*[\"']?((?:gb|big5|euc|shift|sjis|iso|latin|windows|cp|utf|koi8)[\w.-]{0,20})", re.IGNORECASE
)
_WIDE = re.compile(  # a BOM, or a first character of ASCII before another
    rb"(?P<utf_32>\xff\xfe\0\0|\0\0\xfe\xff)|(?P<utf_16>\xff\xfe|\xfe\xff)|(?P<utf_32_le>[{\[\"<d]\0\0\0[^\0])"
    rb"|(?P<utf_32_be>\0\0\0[{\[\"<d]\0)|(?P<utf_16_le>[{\[\"<d]\0[^\0])|(?P<utf_16_be>\0[{\[\"<d]\0)"
)
_CUT_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*(\\(?:u[0-9a-fA-F]{0,3})?)$")


class UnreadableError(ValueError):
    """The text is not the JSON, or not the base64, that it should be."""


# An integer stays digits where `int` would refuse (4300 digits) or be slow; nobody computes with it.
_DECODER = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else digits, strict=False
)


def as_utf8(body: bytes, media_type: str) -> bytes:
    """Return a body of text in UTF-8: from UTF-16 and UTF-32, told by their first bytes, and the charset that is named.

    What is UTF-8 already stays as it is, whatever is named; so does what is in no charset that is known.
    """
    wide = _WIDE.match(body)
    named = wide.lastgroup if wide else (charset[1] if (charset := _CHARSET.search(media_type)) else None)
    if named is None or not (wide or _is_foreign(body)):
        return body
    try:
        return body.decode(named.replace("_", "-"), "replace").encode(errors="replace")
    except LookupError:
        return body


def _is_foreign(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"  # cut off
    return False


def text_of(body: bytes) -> str:
    """Decode UTF-8, without BOM and outer whitespace; bytes that are not UTF-8 become U+FFFD."""
    return without_bom(body.decode("utf-8", "replace"))


def without_bom(text: str) -> str:
    """Return a text without BOM and outer whitespace."""
    return text.removeprefix("\ufeff").strip()


def parse(text: str) -> Any:
    """Parse one JSON document; UnreadableError when it is none, or nested deeper than the parser goes."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(str(error)) from error


def unquoted(text: str) -> str:
    """Return the text that is told as a JSON string, as some relays send their JSON; any other as it is."""
    for _ in range(_MOST_QUOTES):
        try:
            inner = parse(text) if text.startswith('"') and text.endswith('"') else None
        except UnreadableError:
            inner = None
        if not isinstance(inner, str):
            break
        text = without_bom(inner)
    return text


def leading(text: str) -> Any:
    """Parse the JSON document that a text is, or the object that it begins with; UnreadableError when there is none."""
    try:
        return parse(text)
    except UnreadableError:
        found = next(objects(text), None) if text.startswith("{") else None
        if found is None or found[0] > 0:
            raise
        return found[2]


def objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Find the outermost JSON objects in prose, as (start, end, object); ends early where attempts cost too much."""
    budget = 4 * len(text) + _FREE_READING
    start = _OBJECT_START.search(text)
    while start is not None and budget > 0:
        begin, after = start.start(), start.start() + 1
        try:
            value, after = _DECODER.raw_decode(text, begin)
            yield begin, after, value
        except json.JSONDecodeError as error:
            # The error counts the line ends before it; a string without an end was read to the end of the text.
            budget -= error.pos // 16 + error.pos - begin + 1
            budget -= len(text) - begin if error.msg.startswith("Unterminated") else 0
        except RecursionError:
            budget -= len(text)
        start = _OBJECT_START.search(text, after)


def closed_off(text: str) -> tuple[str, str]:
    """Return JSON that broke off as a whole document, closed behind its last whole value, and what came after that."""
    left: list[str] = []
    end, depth, before = 0, 0, ""
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "{[":
            left.append("}" if mark == "{" else "]")
        elif mark in "}]":
            del left[-1:]
        is_value = token[1] is not None and (before == ":" or left[-1:] == ["]"])
        if is_value or mark in "}]":
            end, depth = token.end(), len(left)
        before = mark
    return text[:end] + "".join(reversed(left[:depth])), text[end:]


def elements(text: str) -> dict[str, Any]:
    """Return XML as JSON would tell it: names with a small first letter, of each element that is closed its text."""
    root: dict[str, Any] = {}
    within: list[tuple[str, dict[str, Any], list[str]]] = [("", root, [])]
    for token in _XML.finditer(text):
        _, children, said = within[-1]
        name = token["name"]
        if not name:
            said.append(token["raw"] or html.unescape(token["text"] or ""))
        elif token["end"]:
            if within[-1][0] == name and len(within) > 1:
                within.pop()
                _put(within[-1][1], name, children or "".join(said).strip())
        elif not token["empty"]:
            within.append((name, {}, []))
    while len(within) > 1:  # what broke off holds what was closed in it
        name, children, _ = within.pop()
        _put(within[-1][1], name, children)
    only = next(iter(root.values())) if len(root) == 1 and "error" not in root else root
    return only if isinstance(only, dict) else root


def _put(parent: dict[str, Any], tag: str, value: Any) -> None:
    name = tag.lower() if tag.isupper() else tag[0].lower() + tag[1:]
    if isinstance(parent.get(name), list):
        parent[name].append(value)
    else:
        parent[name] = [parent[name], value] if name in parent else value


def unescape(text: str) -> str:
    r"""Resolve the JSON escapes of a string's inside, which may be cut off within an escape (`\`, `\u00`)."""
    cut = _CUT_ESCAPE.search(text[-50:])
    whole = text[: len(text) - len(cut[1])] if cut else text
    try:
        return str(parse(f'"{whole}"'))
    except UnreadableError:
        return whole


def told_seed(value: Any) -> int | None:
    """Return the seed that an answer says was used; None where it is none, or more than 64 bits with a sign hold."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def told_counts(told: Any, **kinds: str) -> dict[str, int]:
    """Return how many of each kind an object tells, by the keys that have them; a key without a count has 0.

    Raises UnreadableError: a count is none, or there is no object.
    """
    if not isinstance(told, dict):
        raise UnreadableError("no object with counts")
    counts = {kind: 0 if told.get(key) is None else told[key] for kind, key in kinds.items()}
    if not all(type(count) is int and 0 <= count < _MOST for count in counts.values()):
        raise UnreadableError("no counts")
    return counts


def told_text(value: Any) -> str | None:
    """Return a text of an answer as it can be kept and sent: without half surrogates; None where there is none."""
    return value.encode(errors="replace").decode().strip() or None if isinstance(value, str) else None


def is_data_url(text: str) -> bool:
    """Whether the text starts as a base64 `data:` URL."""
    return _DATA_URL.match(text) is not None


def without_head(text: str) -> str:
    """Return the base64 of a text, without what makes it a `data:` URL."""
    while (head := _DATA_URL.match(text)) is not None:  # some relays write it twice
        text = text[head.end() :]
    return text


def decode_base64(text: str) -> bytes:
    """Decode base64, bare or in a `data:` URL, also wrapped, URL-safe or unpadded; UnreadableError when it is none."""
    payload = unquote("".join(without_head(text).split()))
    payload = payload.replace("-", "+").replace("_", "/").rstrip("=")
    if "=" in payload:
        raise UnreadableError("what follows its end is no base64")
    payload += "=" * (-len(payload) % 4)
    pieces = (payload[at : at + DECODED_AT_ONCE] for at in range(0, len(payload), DECODED_AT_ONCE))
    try:
        data = b"".join(binascii.a2b_base64(piece, strict_mode=True) for piece in pieces)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    if not data:
        raise UnreadableError("empty")
    return data
