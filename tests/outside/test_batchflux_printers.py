"""batchflux's suite of batches over Printers: how its server answers, and how a manifest names the provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from batchflux.testing import BatchDialect, BatchSuite, Dialect, Way

if TYPE_CHECKING:
    from batchflux.testing import Batch

WORDS = {"running": "printing", "completed": "printed", "expired": "late", "cancelled": "ended", "failed": "refused"}


def _told(run: Batch) -> Any:
    return {"run": run.id, "name": run.name, "is": WORDS[run.state], "file": next(iter(run.files), None)}


RUNS = BatchDialect(
    routes={
        "POST /printers/files": "upload",
        "POST /printers/runs": "create",
        "GET /printers/runs": "list",
        "GET /printers/runs/{id}": "poll",
        "POST /printers/runs/{id}/end": "cancel",
        "GET /printers/files/{id}": "download",
    },
    line=lambda line: (line["page"], line["print"]),
    asked=lambda body: (body["file"], body["name"]),
    uploaded=lambda name: {"file": name},
    told=_told,
    listed=lambda runs: {"runs": [_told(run) for run in runs]},
    answered=lambda key, status, answer: {"page": key, "status": status, "answer": answer},
)


class TestPrinters(BatchSuite):
    ways: ClassVar = (Way(name="printers", provider="name: printers", tasks=False, links=False),)
    dialects: ClassVar = (
        Dialect(
            paths=("/printers/print",),
            text=lambda body: str(body["text"]),
            picture=lambda made: {"image": made.base64},
            batches=RUNS,
        ),
    )
