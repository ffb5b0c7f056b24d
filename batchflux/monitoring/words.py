"""What a notice says to people: a title, and a few lines that can be read on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.errors import BatchfluxError, FolderBusy, ManifestError, StopRun

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from batchflux.ledger.summary import Summary

BUG = 70
_MINUTE, _HOUR = 60, 3600


def title_of(name: str, exit_code: int, reason: str) -> str:
    """Return how a run ended in a few words."""
    if exit_code == 0:
        return f"{name}: done"
    return f"{name}: some jobs failed" if reason == "finished" else f"{name}: stopped ({reason})"


def text_of(summary: Summary) -> str:
    """Return how a run ended, and how its folder stands."""
    this, jobs = summary.this_run, summary.jobs
    text = [
        summary.message,
        "",
        f"exit code  {summary.exit_code} ({summary.reason})",
        f"this run   {_counted(this)} in {_duration(summary.seconds)} ({summary.images_per_minute:,.0f} images/min)",
        f"folder     {_counted(jobs)}, {jobs.get('pending', 0):,} pending: {summary.folder}",
    ]
    if summary.failures:
        text.append("failures   " + ", ".join(f"{code} {number:,}" for code, number in summary.failures.items()))
    if summary.spent or summary.budget is not None:
        text.append(f"spent      {_spent(summary)}")
    if len(summary.providers) > 1:
        text += [
            f"{name}: {use.done:,} done, {use.failed:,} failed, {use.attempts:,} attempts, {use.refused:,} refused, "
            f"{use.spent:f} {summary.currency}"
            for name, use in summary.providers.items()
        ]
    return "\n".join(text)


def _spent(summary: Summary) -> str:
    most = "" if summary.budget is None else f" of {summary.budget:f}"
    text = f"{summary.spent:f}{most} {summary.currency}, {summary.spent_this_run:f} in this run"
    if summary.budget_per_run is not None:
        text += f" of {summary.budget_per_run:f}"
    return text + (f", {summary.spent_possibly:f} possibly" if summary.spent_possibly else "")


def budget_text(key: str, share: float, spent: Decimal, most: str) -> str:
    """Say how much of a budget is used up; `most` is it with its currency."""
    whose = "this run's budget" if key == "budget_per_run" else "the budget"
    return f"{100 * share:.0f} % of {whose} of {most} is spent: {spent:f}."


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("done", "failed", "unknown"))


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"


def explained(error: Exception) -> tuple[int, str, str]:
    """Return exit code, reason and message of an error that ended a run."""
    if isinstance(error, StopRun):
        return error.exit_code, error.reason, str(error)
    if isinstance(error, BatchfluxError):
        named = {FolderBusy: "busy", ManifestError: "manifest"}
        return error.exit_code, named.get(type(error), "usage"), str(error)
    what = f"batchflux ended by a bug of its own ({type(error).__name__})"  # its message may hold a secret
    return BUG, "bug", f"{what}: what was paid for is on record, so run again to continue."
