"""How an API says things: what the bank reads and writes in it.

A Dialect shares no code with the provider that is tested, and is written from the API's own documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What was made: as a link, as base64, and what it says that it cost, in USD (None: nothing)."""

    link: str
    base64: str
    cost: float | None
    body: Mapping[str, Any]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that is asked for: `word` is what there is to say of it, one of WORDS; `id` is empty where all are."""

    id: str
    word: str
    url: str
    link: str = ""
    cost: float | None = None
    all: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A request that was accepted, at epoch second `at`: its task's id, its path, and what it said."""

    id: str
    path: str
    body: Mapping[str, Any]
    at: float


WORDS = ("pending", "missing", "failed", "moderated", "ready")
Told = tuple[int, Any, dict[str, str]]
"""An answer: its status, its JSON, its headers."""


BatchState = Literal["running", "completed", "failed", "expired", "cancelled"]


@dataclass(slots=True, kw_only=True)
class Batch:
    """A batch of a file's lines, by their keys; `name` is what its creator calls it. `files` hold its answers."""

    id: str
    name: str
    path: str
    lines: dict[str, Mapping[str, Any]]
    state: BatchState = "running"
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDialect:
    """How an API speaks of batches.

    `routes` are its calls, as `POST /v1/files`, and what each is: `begin` (an upload that goes on at the address that
    is answered), `upload`, `create`, `list`, `poll`, `cancel` or `download`; `{id}` in them is what it is about.
    `line` returns the key, the path and the body of a line, `asked` the file and the name of a `create`. `begun` is the
    answer's header for a `begin` whose upload goes to an address, `uploaded` the answer for a file, `told` what is
    said of a batch, `listed` of all, `answered` a line that answers: its key, status and body. `keeps_expired`: a batch
    that expired gives what it has made.
    """

    routes: Mapping[str, str]
    line: Callable[[Mapping[str, Any]], tuple[str, Mapping[str, Any]]]
    asked: Callable[[Mapping[str, Any]], tuple[str, str]]
    uploaded: Callable[[str], Any]
    told: Callable[[Batch], Any]
    listed: Callable[[list[Batch]], Any]
    answered: Callable[[str, int, Any], Any]
    begun: Callable[[str], Mapping[str, str]] = lambda _: {}
    keeps_expired: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """An API: the paths of its paid calls, and how it speaks there.

    `mine` tells by the path and the body whether a call is this API's: some share their paths. `text` is the prompt in
    a body. `refusals` are answers to the faults that it does not tell as others do: status and JSON. `unread` returns
    what a call gets that it does not understand. An API of tasks has `accepted`, the answer to a paid call, and `asks`,
    what is told of a task at each path, the first of them the one that counts as a poll; `task` is a task's id where
    the call names it. `lists` are the paths where it tells what it accepted: of these requests, by the query.
    `keyed`: whether it wants a key; `key` is the header that carries it. `batches` says how it speaks of batches, where
    it sells some.
    """

    paths: tuple[str, ...]
    text: Callable[[Mapping[str, Any]], str]
    picture: Callable[[Picture], Any] = lambda _: None
    mine: Callable[[str, Mapping[str, Any]], bool] = lambda *_: True
    refusals: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    accepted: Callable[[Task], Any] | None = None
    asks: Mapping[str, Callable[[Task], Told]] = field(default_factory=dict)
    lists: Mapping[str, Callable[[Mapping[str, str], Sequence[Accepted]], Told]] = field(default_factory=dict)
    task: Callable[[Mapping[str, Any]], str | None] = lambda _: None
    keyed: bool = True
    key: str = "Authorization"
    unread: Callable[[str, str, Mapping[str, Any]], tuple[int, Any] | None] = lambda *_: None
    batches: BatchDialect | None = None


TOKEN = re.compile(r"#([a-z0-9]+)(?:\*(\d+))?")


def said(text: str, kind: set[str], number: int) -> str | None:
    """Return what a prompt says of one kind for this time, counted from 0."""
    for name, times in TOKEN.findall(text):
        if name in kind:
            if not times or number < int(times):
                return str(name)
            number -= int(times)
    return None


def job_of(text: str) -> str:
    """Return the job's id where a prompt gives one, behind any references, else the prompt."""
    words = [*dropwhile(lambda word: word.startswith(("http://", "https://")), text.split())] or [""]
    return words[1] if words[0] == "job" and len(words) > 1 else text
