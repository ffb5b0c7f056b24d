"""Whether a table was written since its rows were checked: what is made then would be what nobody saw in a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchflux.errors import ReadError
from batchflux.manifest.reading.diagnostics import row_fault

if TYPE_CHECKING:
    from batchflux.errors import Fault
    from batchflux.manifest.schema import Entry, Manifest

_SAYS = "was written while the run read it; run again once it is whole"


class _State(NamedTuple):
    file: int  # its inode
    size: int
    written: int


class Tables:
    """The tables of a manifest as they are when this is made."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._entries = [entry for entry in manifest.entries if entry.source is not None]
        self._states = [self._state(entry) for entry in self._entries]

    def fault(self, *, replaced: bool) -> Fault | None:
        """Return that of a table which was written since; `replaced`: or which is another file under its name.

        Who reads a file goes on with it where another takes its name, as most editors save.
        """
        for entry, before in zip(self._entries, self._states, strict=True):
            now = self._state(entry)
            if now != before and (replaced or now is None or before is None or now.file == before.file):
                return row_fault(self._manifest, entry, None, "from", _SAYS)
        return None

    @property
    def several(self) -> bool:
        """Whether there are several, which are opened one after the other."""
        return len(self._entries) > 1

    def _state(self, entry: Entry) -> _State | None:
        try:
            found = self._manifest.path_of(entry.source or "").stat()
        except (OSError, ReadError):
            return None
        return _State(found.st_ino, found.st_size, found.st_mtime_ns)
