"""The messages of a chat as shells send them → turns: who says what, and which pictures stand in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from batchflux.errors import quoted
from batchflux.gateway.reading import pictures
from batchflux.gateway.reading.bodies import found, refused, typed
from batchflux.manifest.reading.values import either

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Who = Literal["user", "assistant", "system"]
_ROLES: dict[str, Who | None] = {
    **{role: role for role in get_args(Who)},
    "developer": "system",
    **dict.fromkeys(("tool", "function")),
}
# No sign that begins a picture can stand within one, so that a text is read in one go, whatever it holds.
_LINK = r"https?://[^\s()<>\[\]]{1,8192}|data:image/[\w.+;=-]{1,200},(?-i:[A-Za-z0-9+/=]*+)"
_MARKDOWN = re.compile(rf"!\[[^\[\]\n]{{0,1000}}\]\(<?({_LINK})>?(?: \"[^\"\n\[]{{0,1000}}\")?\)", re.IGNORECASE)
# LobeHub puts what it knows of uploaded files behind a user's words, in a block that says itself to be none of them.
_ASIDE = ("<!-- SYSTEM CONTEXT (NOT PART OF USER QUERY) -->", "<!-- END SYSTEM CONTEXT -->")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message: `links` are its pictures as they stand there (addresses, data URLs), not yet decoded."""

    who: Who
    text: str
    links: tuple[str, ...]
    param: str


def turns(messages: Any, own_link: Callable[[str], bool]) -> list[Turn]:
    """Read the messages of a chat; what tools said is left out.

    In an assistant's text only pictures of ours count (`own_link`) or such as stand there whole: the others are what
    it told about.

    Raises:
        RefusalError: Naming the message that is at fault.
    """
    listed = typed("messages", messages, "list")
    made = [_turn(each, f"messages[{number}]", own_link) for number, each in enumerate(listed)]
    return [turn for turn in made if turn is not None]


def _turn(message: Any, param: str, own_link: Callable[[str], bool]) -> Turn | None:
    typed(param, message, "object")
    role = typed(f"{param}.role", message.get("role"), "string")
    if role not in _ROLES:
        raise refused(f"{param}.role", f"found {quoted(role)}; allowed is {either(tuple(_ROLES))}")
    who = _ROLES[role]
    if who is None:
        return None
    counts = own_link if who == "assistant" else None
    texts: list[str] = []
    links: list[str] = []
    for text, link in _parts(message.get("content"), f"{param}.content"):
        if link is not None:
            links.append(link)
        else:
            rest, shown = _pictures_of(_without_asides(text), counts)
            texts.append(rest)
            links += shown
    links += _handed(message.get("images"), f"{param}.images")
    return Turn(who=who, text="\n".join(texts).strip(), links=tuple(links), param=param)


def _pictures_of(text: str, counts: Callable[[str], bool] | None) -> tuple[str, list[str]]:
    """Take the pictures that count (None: all) out of a text: return what is left, and their links."""
    links: list[str] = []

    def taken(match: re.Match[str]) -> str:
        if counts is None or match[1][:5].lower() == "data:" or counts(match[1]):
            links.append(match[1])
            return ""
        return match[0]

    return _MARKDOWN.sub(taken, text), links


def _without_asides(text: str) -> str:
    begin, end = _ASIDE
    kept, here = [], 0
    while (start := text.find(begin, here)) >= 0 and (stop := text.find(end, start)) >= 0:
        kept.append(text[here:start])
        here = stop + len(end)
    return "".join([*kept, text[here:]])


def _parts(content: Any, param: str) -> Iterator[tuple[str, str | None]]:
    """Yield a content's texts, and its pictures' links, in order."""
    if content is None:
        return
    if isinstance(content, str):
        yield content, None
        return
    for number, part in enumerate(typed(param, content, "string", "list")):
        place = f"{param}[{number}]"
        kind = typed(place, part, "object").get("type")
        if kind in {"text", "input_text", "output_text", "refusal"}:
            yield typed(f"{place}.text", part.get("text", part.get("refusal")), "string"), None
        elif kind in {"image_url", "input_image", "image"}:
            yield "", pictures.link(part, place)
        else:
            raise refused(f"{place}.type", f"found {found(kind)}; allowed is text or image_url")


def _handed(images: Any, param: str) -> list[str]:
    """Read `message.images`, in which OpenRouter's kind of answers hand pictures over."""
    return [] if images is None else [pictures.link(each, param) for each in typed(param, images, "list")]
