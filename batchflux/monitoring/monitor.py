"""What a run tells of itself to those who are not there: its notices, and its metrics."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from batchflux.monitoring.metrics import Live
from batchflux.monitoring.notices import notices_of
from batchflux.monitoring.textfile import MetricsFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchflux.engine.budget import Budget
    from batchflux.ledger.summary import Summary
    from batchflux.manifest import Manifest
    from batchflux.manifest.reading.targets import NoticeTarget
    from batchflux.models import Job, Outcome
    from batchflux.observers import Progress


class Monitor:
    """Notices and metrics of a run of `manifest`; `notify` are told beside those that it names."""

    def __init__(
        self,
        manifest: Manifest,
        environ: Mapping[str, str],
        notify: Sequence[NoticeTarget] = (),
        metrics: Path | None = None,
        *,
        signals: bool = False,
    ) -> None:
        folder = manifest.output.dir
        self.notices = notices_of(
            [*dict.fromkeys((*manifest.notify, *notify))],
            environ,
            name=manifest.name,
            folder=str(folder),
            signals=signals,
        )
        self._providers = manifest.may_ask
        self._progress: Progress | None = None
        self._file = None if metrics is None else MetricsFile(metrics, folder, self.notices.event)
        if self._file is not None:
            self._file.live = self._live

    def speaks(self, event: Callable[..., Any]) -> None:
        """Let `event` be told, from here on, what could not be."""
        self.notices.event = event
        if self._file is not None:
            self._file.event = event

    def check(self) -> None:
        """See that all can be told, and metrics written; UsageError: an address needs what is not installed, say."""
        if self.notices.fault is not None:
            raise self.notices.fault
        if self._file is not None:
            self._file.check()

    def telling(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Tell how what is done within ends, and wait until that is told."""
        return self.notices.telling()

    def kept(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Keep the metrics while this is entered."""
        return contextlib.nullcontext() if self._file is None else self._file.kept()

    def heard(self, name: str, fields: Mapping[str, Any]) -> None:
        """Take note of a line of run.log."""
        self.notices.heard(name, fields)

    def job_ended(self, job: Job, outcome: Outcome) -> None:
        """Take note of a job's end."""
        self.notices.job_ended(job, outcome)

    def follow(self, progress: Progress, budget: Budget) -> None:
        """Look at these from here on."""
        self._progress, self.notices.budget = progress, budget

    def finished(self, summary: Summary) -> None:
        """Tell how the run ended."""
        self.notices.finished(summary)
        if self._file is not None:
            self._file.ended = summary.exit_code, summary.finished_at

    def _live(self) -> Live:
        waiting = self._progress is not None and self._progress.waiting() is not None
        return Live(waiting=waiting, providers=self._providers, away=self.notices.outages.providers)
