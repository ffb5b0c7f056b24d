"""How many files and connections a run may have open (RLIMIT_NOFILE): known before anything is spent.

The soft limit is raised as far as the hard one allows; a run that would need more is refused, for it would lose
connections and writes in its midst.
"""

from __future__ import annotations

import resource

from batchflux.errors import UsageError

OF_THE_PROGRAM = 64  # itself, ledger, log, tables, and a thread's or two
A_REQUEST = 5  # its connection, up to two downloads and their files, a reference being read
DOWNLOADS = 8  # see tuning.fetches


def ensure(at_once: int) -> None:
    """See that `at_once` requests and their downloads can be open at once.

    Raises:
        UsageError: the system allows fewer; nothing was spent.
    """
    needed = OF_THE_PROGRAM + DOWNLOADS + A_REQUEST * at_once
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fits = (hard - OF_THE_PROGRAM - DOWNLOADS) // A_REQUEST
    lower = f", or lower limits.concurrency to {fits}" if fits > 0 else ""
    raise UsageError(
        f"The system allows {hard} open files, and {at_once} requests at once need {needed}: "
        f"raise the limit (ulimit -n {needed}){lower}. Nothing was spent."
    )
