"""Answers of the chat API: pictures as markdown in an assistant's message, whole or as a stream that says what it does.

A stream begins at once, and never falls silent: shells give up when no headers come, proxies when no bytes do. What it
says while it waits is quoted, so that the picture stands out.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchflux.gateway.answering.errors import envelope
from batchflux.gateway.answering.pieces import Piece, Spliced, data_url, pieces_of
from batchflux.gateway.answering.sse import DONE, EVERY, HEARTBEAT, beats, frame
from batchflux.gateway.orders import RefusalError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Sequence

    from batchflux.gateway.orders import Shot

TELL = 4  # signs of life from one line to the next that says the same


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """How a call of the chat API is answered: `link` says where a picture is, `created` is in epoch seconds.

    `model` is what the client called it. `inline`: pictures as data URLs, else as links. `missing` gives, once there
    are pictures, the codes of those that could not be made.
    """

    model: str
    created: int
    link: Callable[[Shot], str]
    inline: bool = False
    missing: Callable[[], Sequence[str]] = tuple
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")

    def document(self, shots: Sequence[Shot]) -> list[Piece]:
        """Return the answer as one document: markdown, and the pictures once more in `images`, where some look."""
        images = [
            {"type": "image_url", "index": index, "image_url": {"url": Spliced(self._address(shot))}}
            for index, shot in enumerate(_all(shots))
        ]
        message = {"role": "assistant", "content": self._markdown(shots), "images": images}
        return pieces_of(
            self._head("chat.completion") | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        )

    async def stream(
        self, made: asyncio.Future[Sequence[Shot]], doing: Callable[[], str], every: float = EVERY
    ) -> AsyncGenerator[list[Piece]]:
        """Yield events until the pictures are made, then the pictures; `doing` says what is waited for, in few words.

        A refusal is said in words, which shells show, and as an error, which programs see.
        """
        said, last = doing(), 0.0
        yield self._chunk({"role": "assistant", "content": "" if made.done() else _quoted(said)})
        async for waited in beats(made, every):
            now = doing()
            if now == said and waited - last < TELL * every:
                yield [HEARTBEAT]
                continue
            said, last = now, waited
            yield self._chunk({"content": _quoted(f"{said} ({waited:.0f} s)")})
        try:
            yield self._chunk({"content": self._markdown(made.result())})
            yield self._chunk({}, "stop")
        except RefusalError as error:
            yield self._chunk({"content": f"**{error.message}** ({error.code})"})
            yield frame(envelope(error))
        yield [DONE]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> list[Piece]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return frame(self._head("chat.completion.chunk") | {"choices": [choice]})

    def _markdown(self, shots: Sequence[Shot]) -> Spliced:
        parts: list[str | Shot] = []
        for shot in _all(shots):
            parts += ["\n\n![image](" if parts else "![image](", *self._address(shot), ")"]
        missing = self.missing()
        said = [_quoted(f"{len(missing)} more could not be made: {', '.join(missing)}")] if missing else []
        return Spliced((*said, *parts))

    def _address(self, shot: Shot) -> tuple[str | Shot, ...]:
        return data_url(shot) if self.inline else (self.link(shot),)


def _all(shots: Sequence[Shot]) -> list[Shot]:
    """Return pictures, each before the further ones of its answer: a call is paid for, however many it gives."""
    return [one for shot in shots for one in (shot, *shot.further)]


def _quoted(words: str) -> str:
    """Return words as one quoted line of markdown, and the blank line that ends it."""
    return f"> {' '.join(words.split())}\n\n"
