"""Frames of any text, cut anywhere, and JSON with pictures in it, are read as they were meant."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from batchflux.gateway.answering.pieces import PIECE, Spliced, encoded, length_of, pieces_of
from batchflux.gateway.answering.sse import DONE, HEARTBEAT, frame
from batchflux.gateway.orders import RefusalError
from tests.gateway.answering.conftest import shot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchflux.gateway.answering.pieces import Piece

texts = st.text(st.characters())
values = st.recursive(
    st.none() | st.integers() | texts, lambda one: st.lists(one) | st.dictionaries(texts, one), max_leaves=5
)


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    places = sorted({place % (len(data) + 1) for place in at})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        yield data[start:end]


async def read(pieces: list[Piece]) -> bytes:
    async with aclosing(encoded(pieces)) as parts:
        return b"".join([part async for part in parts])


@given(sent=st.lists(st.tuples(values, st.sampled_from(["", "image_edit.completed"]))), at=st.lists(st.integers(0)))
@settings(max_examples=40)
def test_events_of_any_text_cut_anywhere_are_read_as_they_were(sent: list[tuple[Any, str]], at: list[int]) -> None:
    parts = [part for value, event in sent for part in (HEARTBEAT, *frame(value, event))]
    data = b"".join(part for part in parts if isinstance(part, bytes)) + DONE
    assert data.isascii()
    *events, done = SSEDecoder().iter_bytes(cut(data, at))
    assert [(json.loads(event.data), event.event or "") for event in events] == sent
    assert done.data == "[DONE]"


@given(value=values, words=st.tuples(texts, texts))
@settings(max_examples=25)
def test_a_string_holds_pictures_among_any_words(value: Any, words: tuple[str, str], tmp_path: Path) -> None:
    shot = shot_of(tmp_path)
    pieces = pieces_of({"v": value, "s": [Spliced((words[0], shot, words[1], shot))]})
    data = asyncio.run(read(pieces))
    assert len(data) == length_of(pieces)
    picture = base64.b64encode((tmp_path / "mug.png").read_bytes()).decode()
    assert json.loads(data) == {"v": value, "s": [f"{words[0]}{picture}{words[1]}{picture}"]}


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2])
async def test_a_picture_of_any_size_is_encoded_piece_by_piece(tmp_path: Path, size: int) -> None:
    shot = shot_of(tmp_path)
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "mug.png").write_bytes(data[:size])
    object.__setattr__(shot, "bytes", size)
    async with aclosing(encoded([shot])) as parts:
        pieces = [part async for part in parts]
    assert all(len(piece) <= PIECE // 3 * 4 for piece in pieces)
    assert base64.b64decode(b"".join(pieces), validate=True) == data[:size]


async def test_half_a_picture_ends_the_connection_and_nothing_stays_open(tmp_path: Path) -> None:
    first, second = shot_of(tmp_path, "a", 300), shot_of(tmp_path, "b")
    async with aclosing(encoded([first, second])) as parts:
        await anext(parts)
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(ConnectionResetError):
            await anext(parts)
    (tmp_path / "b.png").unlink()
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")  # is never followed out of the folder
    with pytest.raises(RefusalError, match="picture of a was made"):
        await read([first, second])
