"""Whether a blocking step is worth a thread: a pure rule, with memory.

Handing work to a thread costs two context switches and, while the loop is busy, a fight for the interpreter lock at
each system call: half a millisecond and more of processor time a job. On a disk that syncs in microseconds (tmpfs, a
write-back cache, a battery-backed controller) the step itself takes less. So a step is timed: while it is brief it is
done in place, otherwise in a thread, with a try in place now and then to notice a change.
"""

from __future__ import annotations

BRIEF = 0.001  # seconds; what the loop may be held for one step
WEIGHT = 0.1  # of the newest measurement
TRY_AGAIN = 64  # steps in threads before the next try in place
LONGEST_NEWS = 4.0  # times BRIEF; a longer step counts as this long


class Briefly:
    """Decides for one kind of step, from how long it took in place. The first is tried in place."""

    def __init__(self, brief: float = BRIEF) -> None:
        self._brief = brief
        self._usual = 0.0
        self._elsewhere = 0

    def in_place(self) -> bool:
        """Return whether the next step should be done in place."""
        if self._usual <= self._brief:
            return True
        self._elsewhere += 1
        if self._elsewhere < TRY_AGAIN:
            return False
        self._elsewhere = 0
        return True

    def took(self, seconds: float) -> None:
        """Learn how long a step took in place.

        One long step is no news (the system was busy elsewhere), several are; after a time in threads a brief one is.
        """
        change = 1.0 if self._usual > self._brief else WEIGHT
        self._usual += (min(seconds, LONGEST_NEWS * self._brief) - self._usual) * change
