"""Chat streams whose right answer is known, broken in every way that leaves that answer alone.

Links are never changed (nobody could tell a changed link from another one), but all around them is:
frames are dropped, doubled, swapped and put in, bytes changed, packets and the stream cut anywhere. Then the answer is
that picture or an error; the reference, an echo of it, a preview or half a link never.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.errors import JobError
from batchflux.models import Link
from tests.fuzz.targets import PHOTO, REFERENCE, answer, check_answer, frames

if TYPE_CHECKING:
    from random import Random

MARGIN = 16  # bytes around a link that stay as they are: they say where it ends
_LINK = re.compile(rb"(?:https://|data:image/)[^\s\"\\]*")
UPLOAD = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
NOISE = [
    frames("> 进度 **2%**\n", done=False),
    frames(f"![image]({REFERENCE})\n", done=False),
    frames(f"{REFERENCE} Make the mug red\n", done=False),
    frames(f"![image]({UPLOAD})\n", done=False),
    frames(f"[photo]({REFERENCE})\n", done=False),
    frames(
        "```json\n" + json.dumps({"prompt": f"{REFERENCE} Make the mug red", "model": "flux"}) + "\n```\n", done=False
    ),
    frames(json.dumps({"messages": [{"role": "user", "content": REFERENCE}], "model": "flux"}) + "\n", done=False),
    frames("![image]()\n", done=False),
    b'data: {"choices": []}\n\n',
    b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n',
    b": heartbeat\n\n",
    b"data:\n\n",
    b"event: ping\ndata: {}\n\n",
    b"data: {broken\n\n",
    b"\r\n\r\n",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A broken stream; `right` are the links of the one picture that it may give."""

    packets: list[bytes]
    complete: bool
    right: frozenset[str]


def case(chance: Random) -> Case:
    """Make one."""
    mark = f"{chance.getrandbits(48):012x}"
    first, second = f"https://cdn.example/{mark}/out.png", f"https://cdn.example/{mark}/out.png?download=1"
    said = chance.choice((f"![image]({first})\n", f"![image]({first})\n\n[点击下载]({second})\n", f"{first}\n"))
    right = frames(said, done=False)
    pieces = [chance.choice(NOISE) for _ in range(chance.randrange(6))] + [right]
    pieces += [chance.choice(NOISE) for _ in range(chance.randrange(3))] + [b"data: [DONE]\n\n"] * chance.randrange(2)
    if chance.random() < 0.3:
        pieces.insert(chance.randrange(len(pieces)), right)
    if chance.random() < 0.2:
        pieces = [piece.replace(b"\n", b"\r\n") for piece in pieces]
    body, complete = _broken(chance, b"".join(pieces)), True
    if chance.random() < 0.5:
        body, complete = body[: chance.randrange(len(body) + 1)], False
    cuts = sorted(chance.randrange(len(body) + 1) for _ in range(chance.randrange(5)))
    packets = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    return Case(packets=packets, complete=complete, right=frozenset({first, second}))


def _broken(chance: Random, body: bytes) -> bytes:
    """Change a few bytes outside of links and inline pictures."""
    data = bytearray(body)
    for _ in range(chance.choice((0, 0, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        if any(link.start() - MARGIN < at < link.end() + MARGIN for link in _LINK.finditer(data)):
            continue
        how = chance.randrange(3)
        if how == 0:
            data[at : at + chance.randrange(1, 6)] = b""
        elif how == 1:
            data[at:at] = chance.randbytes(chance.randrange(1, 6))
        else:
            data[at:at] = chance.choice((b'"', b"\\", b"{", b"}", b"\n", b"\n\n", b"data: ", b"```", b"(", b")", b"!["))
    return bytes(data)


def run(chance: Random) -> str:
    """Make a broken stream, have it read, and check that nothing but its own picture came of it."""
    made = case(chance)
    got = answer(made.packets, complete=made.complete)
    if isinstance(got, Link):
        assert got.url in made.right, f"a wrong picture: {got.url} of {made}"
    else:
        assert isinstance(got, JobError), f"a wrong picture: {got} of {made}"
    return check_answer(got)
