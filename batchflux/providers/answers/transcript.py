"""What the JSON of an answer adds up to: text, pictures named as such, and failures.

Takes a whole answer or the frames of a stream, of either API: `choices` with a `delta` or a `message`, whose content is
text or a list of parts, `data` with `url` or `b64_json`, or an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchflux.providers.answers.failures import Complaint, complaints_in
from batchflux.providers.answers.untrusted import told_seed, told_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BASE64_KEYS = frozenset({"b64_json", "image_base64", "data"})
_HAS_SCHEME = re.compile(r"\s*(?:data:|https?://)", re.IGNORECASE)


class Transcript:
    """Accumulates the documents of one answer; `seed` and `revised_prompt` are what it says was used."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.named: list[str] = []  # the pictures of the last document that named any: URLs or bare base64
        self.complaints: tuple[Complaint, ...] = ()  # the first failure reported
        self.understood = False  # whether something had a shape we know
        self.seed: int | None = None
        self.revised_prompt: str | None = None

    @property
    def text(self) -> str:
        """The content so far."""
        return "".join(self._pieces)

    def say(self, text: str) -> None:
        """Add text to the content."""
        self._pieces.append(text)

    def take(self, document: Any, *, failed: bool = False) -> None:
        """Take the next JSON document; `failed` when it came as an `error` event."""
        if isinstance(document, list):
            document = {"data": document}
        if not isinstance(document, dict):
            return
        complaints = complaints_in(document, certain=failed)
        self.complaints = self.complaints or complaints
        known = any(key in document for key in ("choices", "data", "images"))
        self.understood = self.understood or bool(complaints) or known
        if failed:
            return
        self.named = _named(document) or self.named
        for item in (document, *_listed(document.get("data"))):
            self._note(item)
        for choice in _listed(document.get("choices")):
            if isinstance(choice, dict):
                self._choice(choice)

    def _note(self, item: Any) -> None:
        """Note seed and prompt, which stand beside the picture or around it."""
        if not isinstance(item, dict):
            return
        seed, prompt = told_seed(item.get("seed")), told_text(item.get("revised_prompt"))
        self.seed = self.seed if seed is None else seed
        self.revised_prompt = prompt or self.revised_prompt

    def _choice(self, choice: Mapping[str, Any]) -> None:
        if isinstance(choice.get("error"), dict | str):
            self.complaints = self.complaints or complaints_in({"error": choice["error"]})
        if choice.get("finish_reason") == "content_filter":
            self.complaints = self.complaints or (Complaint(code="content_filter"),)
        for key in ("delta", "message"):
            said = choice.get(key)
            if isinstance(said, dict):
                self._said(said)

    def _said(self, said: Mapping[str, Any]) -> None:
        content = said.get("content")
        named: list[str] = []
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                self.say(text)
            if isinstance(part, dict):
                named += _pictures(part)
        for image in _listed(said.get("images")):
            named += _pictures(image)
        refusal = said.get("refusal")
        if isinstance(refusal, str) and refusal:
            self.complaints = self.complaints or (Complaint(code="content_filter", message=refusal),)
        self.named = named or self.named


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _named(document: Mapping[str, Any]) -> list[str]:
    """Return the pictures that an answer names, in order; progress previews are none."""
    kind = document.get("type")
    if isinstance(kind, str) and "partial" in kind:
        return []
    values = (document.get("data"), document.get("images"))
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    named = [picture for item in items for picture in _pictures(item)]
    return named or list(_strings(document, ("url", "b64_json")))


def _pictures(item: Any) -> list[str]:
    """Return what one item of an answer names: a string, `{url}`, `{b64_json}` or a content part."""
    if isinstance(item, str):
        return [item] if item.strip() else []
    if not isinstance(item, dict):
        return []
    found: list[str] = []
    for key in ("url", "b64_json", "image_url", "image_base64", "image"):
        value = item.get(key)
        found += _strings(value, ("url", "b64_json", "data")) if isinstance(value, dict) else _strings(item, (key,))
    return found


def _strings(item: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    return (as_target(key, item[key]) for key in keys if isinstance(item.get(key), str) and item[key].strip())


def as_target(key: str, value: str) -> str:
    """Return the value under a key as a URL: bare base64 becomes a `data:` URL."""
    if key not in _BASE64_KEYS or _HAS_SCHEME.match(value):
        return value
    return f"data:image/unknown;base64,{value}"
