"""Named points in a job's life, at which a test can have the process killed as by `kill -9`.

`BATCHFLUX_KILL_AT=NAME` kills at the first pass of a point, `NAME:3` at the third. Only the kill tests set it; without
it `reach` does nothing at all. The points stand before and after each durable write, so that a sweep over POINTS shows
what a crash leaves behind at each of them.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "BATCHFLUX_KILL_AT"
POINTS = frozenset(
    {
        "commit.begun",  # the ledger's statements are executed, the commit is not made
        "commit.made",
        "reference.publishing",  # its bytes are at hand, and nowhere else yet
        "reference.published",  # they are in the bucket; the ledger does not know of it yet
        "attempt.intended",  # recorded; the request has not left
        "request.leaving",
        "request.sent",  # one that may cost money
        "answer.received",
        "handle.recorded",  # the task's handle is on record, and not yet asked for
        "poll.leaving",
        "batch.written",  # its lines are in a file; the ledger does not know of it yet
        "batch.authorized",
        "batch.uploaded",
        "batch.leaving",  # on record as what may have left; its request has not
        "batch.created",  # the API has it; its handle is not on record
        "batch.recorded",
        "batch.answered",  # a line of its answers is at hand
        "batch.read",  # all of them are taken, and it is not closed
        "batch.closed",
        "lost.asking",  # an API is about to be asked whether it accepted a request that was not answered
        "lost.found",  # it did; the task's handle is not on record
        "answer.recorded",  # the received picture is on record, and not yet in its place
        "attempt.failing",  # it gave no picture, which is not yet on record
        "attempt.settled",
        "attempt.withdrawn",
        "spool.begun",  # a picture came with its answer; its bytes are nowhere yet
        "spool.kept",
        "rejected.kept",  # a picture that is not as ordered is kept; the ledger does not know of it yet
        "answer.kept",  # what was not understood is kept; the ledger does not know of it yet
        "file.written",  # a new file has its bytes, not yet on the disk
        "file.synced",
        "picture.moving",
        "picture.moved",
        "pictures.synced",  # their names are on the disk; the ledger does not know of them yet
        "csv.appending",
        "csv.appended",
        "csv.rewritten",  # beside the old one, not yet in its place
        "csv.replaced",
        "whole.written",  # manifest.yaml or summary.json: beside the old one
        "whole.replaced",
        "export.written",  # a file of an export: beside its place
        "export.placed",
        "export.recorded",  # what is in a bucket is on record there
        "moves.taken_up",
        "moves.recorded",
        "moves.put_down",
        "mirror.put",  # a picture is in the bucket; the ledger does not know of it yet
        "mirror.recorded",
        "mirror.removed",  # here, after that
        "mirror.set_aside",  # an older picture lies in the bucket under another name, too; not on record
        "mirror.followed",  # results.csv or another file of the folder is in the bucket; not on record
        "run.surveyed",
        "run.closing",  # all jobs ended, nothing of the end is written
        "run.closed",
    }
)


def armed(wish: str) -> Callable[[str], None]:
    """Return what kills the process at the point that `wish` (`NAME` or `NAME:N`) names, or raise ValueError."""
    name, _, times = wish.partition(":")
    if name not in POINTS:
        raise ValueError(f"{VARIABLE}={wish}: there is no point {name}; see batchflux/failpoints.py")
    passes = count(1)

    def reach(point: str) -> None:
        if point == name and next(passes) == int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


_wish = os.environ.get(VARIABLE)
reach: Callable[[str], None] = armed(_wish) if _wish else lambda _: None
