"""What the JSON of an answer adds up to: text, pictures named as such, and failures.

Takes one JSON document (a whole answer) or many (the frames of a stream) of either API: `choices` with a `delta` or
a `message`, whose content is text or a list of parts, `data` with `url` or `b64_json`, or an error. What is held is
bounded by `longest` characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from batchflux.providers.answers.failures import Complaint, complaints_in

LONGEST_TEXT = 100_000_000
_PARTIAL = "partial"
_BASE64_KEYS = frozenset({"b64_json", "image_base64", "data"})
_HAS_SCHEME = re.compile(r"\s*(?:data:|https?://)", re.IGNORECASE)


class TextTooLongError(ValueError):
    """The answer's text is longer than is held."""


class Transcript:
    """Accumulates the documents of one answer.

    Args:
        longest: characters of text and inline pictures held before `TextTooLongError` is raised.
    """

    def __init__(self, longest: int = LONGEST_TEXT) -> None:
        self._left = longest
        self._pieces: list[str] = []
        self.named: tuple[str, ...] = ()
        """The pictures that the last document with any named: URLs, `data:` URLs or bare base64."""
        self.complaints: tuple[Complaint, ...] = ()
        """The first failure reported."""
        self.understood = False
        """Something in the answer had a shape we know."""
        self.seed: int | None = None
        """The seed that the answer says was used."""
        self.revised_prompt: str | None = None
        """The prompt that the answer says was used in place of the job's."""

    @property
    def text(self) -> str:
        """The content so far."""
        return "".join(self._pieces)

    def take(self, document: Any, *, failed: bool = False) -> None:
        """Take the next JSON document; `failed` when it came as an `error` event.

        Raises:
            TextTooLongError: more text came than is held.
        """
        if isinstance(document, list):
            document = {"data": document}
        if not isinstance(document, Mapping):
            return
        complaints = complaints_in(document, certain=failed)
        self.complaints = self.complaints or complaints
        known = any(key in document for key in ("choices", "data", "images"))
        self.understood = self.understood or bool(complaints) or known
        if failed:
            return
        self._name(_named(document))
        self._note(document)
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                self._choice(choice)

    def say(self, text: str) -> None:
        """Add text to the content.

        Raises:
            TextTooLongError: more text came than is held.
        """
        self._hold(len(text))
        self._pieces.append(text)

    def _note(self, document: Mapping[str, Any]) -> None:
        """Note seed and prompt, which stand beside the picture or around it."""
        listed = document.get("data")
        for item in (document, *(listed if isinstance(listed, list) else ())):
            if not isinstance(item, Mapping):
                continue
            seed, prompt = item.get("seed"), item.get("revised_prompt")
            if isinstance(seed, int) and not isinstance(seed, bool):
                self.seed = seed
            if isinstance(prompt, str) and prompt.strip():
                self.revised_prompt = prompt.strip()

    def _choice(self, choice: Mapping[str, Any]) -> None:
        if isinstance(choice.get("error"), Mapping | str):
            self.complaints = self.complaints or complaints_in({"error": choice["error"]})
        if choice.get("finish_reason") == "content_filter":
            self.complaints = self.complaints or (Complaint(code="content_filter"),)
        for key in ("delta", "message"):
            said = choice.get(key)
            if isinstance(said, Mapping):
                self._said(said)

    def _said(self, said: Mapping[str, Any]) -> None:
        content = said.get("content")
        named: list[str] = []
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                self.say(part)
            elif isinstance(part, Mapping):
                if isinstance(part.get("text"), str):
                    self.say(part["text"])
                named += _pictures(part)
        images = said.get("images")
        for image in images if isinstance(images, list) else ():
            named += _pictures(image)
        refusal = said.get("refusal")
        if isinstance(refusal, str) and refusal:
            self.complaints = self.complaints or (Complaint(code="content_filter", message=refusal),)
        self._name(named)

    def _name(self, named: list[str]) -> None:
        if named:
            self._hold(sum(map(len, named)))
            self.named = tuple(named)

    def _hold(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise TextTooLongError("the answer's text is longer than is held")


def _named(document: Mapping[str, Any]) -> list[str]:
    """Return the pictures that an answer names, in order; progress previews are none."""
    kind = document.get("type")
    if isinstance(kind, str) and _PARTIAL in kind:
        return []
    named: list[str] = []
    for key in ("data", "images"):
        listed = document.get(key)
        for item in listed if isinstance(listed, list) else [listed]:
            named += _pictures(item)
    return named or list(_strings(document, ("url", "b64_json")))


def _pictures(item: Any) -> list[str]:
    """Return what one item of an answer names: a string, `{url}`, `{b64_json}` or a content part."""
    if isinstance(item, str):
        return [item] if item.strip() else []
    if not isinstance(item, Mapping):
        return []
    found: list[str] = []
    for key in ("url", "b64_json", "image_url", "image_base64", "image"):
        value = item.get(key)
        found += _strings(value, ("url", "b64_json", "data")) if isinstance(value, Mapping) else _strings(item, (key,))
    return found


def _strings(item: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    return (as_target(key, item[key]) for key in keys if isinstance(item.get(key), str) and item[key].strip())


def as_target(key: str, value: str) -> str:
    """Return the value under a key as a URL: bare base64 becomes a `data:` URL."""
    if key not in _BASE64_KEYS or _HAS_SCHEME.match(value):
        return value
    return f"data:image/unknown;base64,{value}"
