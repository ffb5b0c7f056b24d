"""Answers of the images API: one document, or a stream of events, as OpenAI's clients read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchflux.gateway.answering.errors import envelope
from batchflux.gateway.answering.pieces import Piece, Spliced, pieces_of
from batchflux.gateway.answering.sse import EVERY, HEARTBEAT, beats, frame
from batchflux.gateway.orders import RefusalError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable, Sequence

    from batchflux.gateway.orders import Shot

# What clients' types ask for in a streamed picture, and nobody told: a picture's price is not counted in tokens.
_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesAnswer:
    """How a call of the images API is answered: `link` says where a picture is, `created` is in epoch seconds.

    `inline`: pictures as base64, else as links; of a stream they are always base64, as its events have it. `edit`: the
    call was for an edit, by which the events are named.
    """

    created: int
    link: Callable[[Shot], str]
    inline: bool = False
    edit: bool = False
    quality: str = "auto"

    def document(self, shots: Sequence[Shot]) -> list[Piece]:
        """Return the answer as one document."""
        first = shots[0]
        alike = len({(shot.width, shot.height) for shot in shots}) == 1
        value = {
            "created": self.created,
            "data": [self._entry(shot) for shot in shots],
            "output_format": _format(first),
            **({"size": _size(first)} if alike else {}),
        }
        return pieces_of(value)

    async def stream(self, made: asyncio.Future[Sequence[Shot]], every: float = EVERY) -> AsyncGenerator[list[Piece]]:
        """Yield events: comments until the pictures are made, then one with each; a refusal as one that is an error."""
        yield [HEARTBEAT]
        async for _waited in beats(made, every):
            yield [HEARTBEAT]
        event = f"image_{'edit' if self.edit else 'generation'}.completed"
        try:
            for shot in made.result():
                yield frame({"type": event, **self._completed(shot)}, event)
        except RefusalError as error:
            yield frame({"type": "error", **envelope(error)}, "error")

    def _entry(self, shot: Shot) -> dict[str, Any]:
        more = {"revised_prompt": shot.revised_prompt, "seed": shot.seed}
        picture = {"b64_json": Spliced((shot,))} if self.inline else {"url": self.link(shot)}
        return picture | {name: value for name, value in more.items() if value is not None}

    def _completed(self, shot: Shot) -> dict[str, Any]:
        return {
            "b64_json": Spliced((shot,)),
            "background": "auto",
            "created_at": self.created,
            "output_format": _format(shot),
            "quality": self.quality,
            "size": _size(shot),
            "usage": _USAGE,
        }


def _format(shot: Shot) -> str:
    return shot.media_type.rpartition("/")[2]


def _size(shot: Shot) -> str:
    return f"{shot.width}x{shot.height}"
