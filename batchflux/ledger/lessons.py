"""What a provider's keys were found to allow: noted in the folder's ledger, and for new folders in the user's state.

A lesson is of an address, a model and a key's name, and the later of the two notes counts. What cannot be read, for it
is damaged or of another version, is not known: nothing depends on it but how fast a run begins.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from batchflux import state
from batchflux.ledger.tables import get_meta, set_meta

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping

    from batchflux.ledger.connection import Database
    from batchflux.manifest import ProviderConfig
    from batchflux.state import Lesson

SECONDS = 10.0  # between two notes of a run: a kill forgets no more
_NOTE = "learned"


class Lessons:
    """Keeps the lessons of one run, of one provider's keys: those that differ from what was known before.

    So what nobody has found again holds for no longer.
    """

    def __init__(self, provider: ProviderConfig, database: Database) -> None:
        self._place = provider.base_url or "", provider.model
        self._simulated = provider.simulated  # its limits are the manifest's
        self._database = database
        self.known = database.now(lambda connection: lessons_of(provider, connection))
        if self.known:
            database.now(partial(self._note, self.known))
        self._noted = {name: (lesson.rate, lesson.active) for name, lesson in self.known.items()}

    async def keep(self, found: Callable[[], Mapping[str, Lesson]]) -> None:
        """Note now and then what was `found`, until this is cancelled. Raises StorageError."""
        while True:
            await asyncio.sleep(SECONDS)
            if lessons := self._news(found()):
                await self._database.submit(partial(self._note, lessons))
                await asyncio.to_thread(self._remember, lessons)

    def note(self, found: Mapping[str, Lesson]) -> None:
        """Note at the end of a run what was found. Raises StorageError."""
        if lessons := self._news(found):
            self._database.now(partial(self._note, lessons))
            self._remember(lessons)

    def _news(self, found: Mapping[str, Lesson]) -> dict[str, Lesson]:
        if self._simulated:
            return {}
        before = self._noted
        self._noted = before | {name: (lesson.rate, lesson.active) for name, lesson in found.items()}
        return {name: lesson for name, lesson in found.items() if before.get(name) != self._noted[name]}

    def _note(self, lessons: Mapping[str, Lesson], connection: sqlite3.Connection) -> None:
        note(connection, *self._place, lessons)

    def _remember(self, lessons: Mapping[str, Lesson]) -> None:
        for name, lesson in lessons.items():
            state.note_lesson(*self._place, name, lesson)


def lessons_of(provider: ProviderConfig, connection: sqlite3.Connection) -> dict[str, Lesson]:
    """Return what is known of a provider's keys by their names, from the folder's ledger and the user's state."""
    if provider.base_url is None:
        return {}
    here = _read(_notes(connection).get(f"{provider.base_url} {provider.model}"))
    there = {name: state.lesson(provider.base_url, provider.model, name) for name in provider.key_names}
    known = _latest([here, {name: lesson for name, lesson in there.items() if lesson is not None}])
    return {name: known[name] for name in provider.key_names if name in known}


def noted(connection: sqlite3.Connection) -> dict[str, Lesson]:
    """Return what the folder's own ledger knows of keys by their names, at whichever address."""
    return _latest(map(_read, _notes(connection).values()))


def _latest(known: Iterable[Mapping[str, Lesson]]) -> dict[str, Lesson]:
    told = sorted((pair for named in known for pair in named.items()), key=lambda pair: pair[1].at)
    return dict(told)


def note(connection: sqlite3.Connection, base_url: str, model: str, lessons: Mapping[str, Lesson]) -> None:
    """Note what keys were found to allow; what is known of other keys, models and addresses is kept while it holds."""
    known = {place: read for place, named in _notes(connection).items() if (read := _read(named))}
    place = f"{base_url} {model}"
    known[place] = {**known.get(place, {}), **lessons}
    data = {place: {name: lesson.as_data() for name, lesson in named.items()} for place, named in known.items()}
    set_meta(connection, _NOTE, json.dumps(data))


def _read(named: object) -> dict[str, Lesson]:
    read = {name: state.read_lesson(data) for name, data in named.items()} if isinstance(named, dict) else {}
    return {name: lesson for name, lesson in read.items() if lesson is not None}


def _notes(connection: sqlite3.Connection) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        notes = json.loads(get_meta(connection, _NOTE) or "{}")
        return notes if isinstance(notes, dict) else {}
    return {}
