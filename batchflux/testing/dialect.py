"""How an API says things: what the bank reads and writes in it.

A Dialect shares no code with the provider that is tested, and is written from the API's own documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """An API: the paths of its paid calls, and how it speaks there.

    `mine` tells by the path and the body whether a call is this API's: some share their paths. `text` is the prompt in
    a body. `refusals` are answers to the faults that it does not tell as others do: status and JSON. `unread` returns
    what a call gets that it does not understand. An API of tasks has `accepted`, the answer to a paid call, and `asks`,
    what is told of a task at each path, the first of them the one that counts as a poll; `task` is a task's id where
    the call names it. `lists` are the paths where it tells what it accepted: of these requests, by the query.
    `keyed`: whether it wants a key; `key` is the header that carries it.
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
