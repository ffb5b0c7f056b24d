"""How a provider's books name a request: kept with its attempt, through failures, merges and older ledgers."""

from __future__ import annotations

import pickle
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.billing.comparing import Wanted, compare
from batchflux.billing.entries import entries_of, manifest_of
from batchflux.billing.exported import HowToRead
from batchflux.errors import Code, JobError, UsageError
from batchflux.folders.merge import merge
from batchflux.ledger.connection import beside
from batchflux.providers import providers
from tests.billing.conftest import Folder
from tests.providers.answering import B64, made, read

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.charges.matching import Entry
    from tests.conftest import MakeJob


def entries(folder: Path) -> list[Entry]:
    with beside(folder / "ledger.db") as connection:
        return entries_of(connection, manifest_of(folder, connection, {}, None))


@pytest.mark.parametrize(
    ("api", "headers", "more", "receipt"),
    [
        ("openai", {"x-request-id": "req_1"}, {}, "req_1"),
        ("openai", {"x-oneapi-request-id": "B2", "x-request-id": "req_1"}, {}, "B2"),
        ("openai", {}, {}, None),
        ("openai", {"x-request-id": "a\nb"}, {}, None),
        ("openrouter", {"x-generation-id": "gen-1"}, {"id": "gen-2"}, "gen-1"),
        ("openrouter", {}, {"id": "gen-2"}, "gen-2"),
        ("openrouter", {}, {"id": "chatcmpl-2"}, None),
    ],
)
def test_an_answer_tells_it_with_a_picture_and_without(
    api: str, headers: dict[str, str], more: dict[str, Any], receipt: str | None
) -> None:
    request = providers()[api, api].submit(made(api, "gpt-image-1.5"), 1)
    assert read(request, {"data": [{"b64_json": B64}], **more}, headers=headers).receipt == receipt
    failed = read(request, {"data": [], **more}, headers=headers)
    assert (failed.code, failed.receipt) == (Code.NO_IMAGE, receipt)
    assert pickle.loads(pickle.dumps(failed)).receipt == receipt  # noqa: S301  what was pickled here


@pytest.mark.parametrize(
    ("api", "handle", "name"),
    [
        ("bfl", '{"id": "t1", "url": "https://api.bfl.ai/v1/get_result?id=t1"}', "t1"),
        ("replicate", '{"id": "p1"}', "p1"),
        (
            "fal",
            '{"status": "https://queue.fal.run/m/requests/r1/status", "response": "https://q.run/m/requests/r1"}',
            "r1",
        ),
        ("bfl", "an older one", "an older one"),
    ],
)
def test_a_handle_tells_it(api: str, handle: str, name: str) -> None:
    assert providers()[api, api].task_of(handle) == name


def test_each_attempt_has_its_own(folder: Folder) -> None:
    """One that is out, or was taken back, has none; one that failed has."""
    folder.sends(
        {"receipt": "a"}, {"end": "refused", "receipt": "b"}, {"end": "out"}, {"end": "lost", "receipt": "x" * 300}
    )
    assert [(one.receipt, one.billed) for one in entries(folder.path)] == [
        ("a", "yes"), ("b", "no"), (None, "maybe"), (None, "maybe")
    ]  # fmt: skip


def test_a_merged_folder_has_those_of_both(folder: Folder, tmp_path: Path, make_job: MakeJob) -> None:
    folder.sends({"job": "a", "receipt": "a"}, {"job": "b", "receipt": "b"})
    other = Folder(tmp_path / "other", make_job)
    other.manifest('name: studio, base_url: "http://127.0.0.1:9", keys: [STUDIO_KEY]')
    other.sends({"job": "c", "receipt": "c"}, {"job": "a", "receipt": "d"})
    merge(folder.path, other.path, tmp_path / "both", lambda *_: None)
    assert {(one.job, one.receipt) for one in entries(tmp_path / "both")} == {
        ("a", "a"), ("b", "b"), ("c", "c"), ("a", "d")
    }  # fmt: skip


def test_a_ledger_without_them_is_read_all_the_same(folder: Folder) -> None:
    folder.sends({"receipt": "a"})
    ledger = folder.ledger()
    ledger.database.now(lambda connection: connection.execute("DROP TABLE receipts"))
    ledger.close()
    assert [one.receipt for one in entries(folder.path)] == [None]


def test_a_ledger_of_sums_cannot_be_compared(folder: Folder) -> None:
    folder.sends({"receipt": "a"})
    ledger = folder.ledger()
    for statement in ("ALTER TABLE submissions RENAME TO gone", "UPDATE meta SET value = '1' WHERE name = 'format'"):
        ledger.database.now(methodcaller("execute", statement))
    ledger.close()
    wanted = Wanted(file=folder.path / "x.csv", how=HowToRead())
    with pytest.raises(UsageError, match="of an old format, which has sums only"):
        compare(folder.path, wanted, {})


def test_an_error_of_a_step_that_told_nothing_has_none() -> None:
    assert JobError(Code.SERVER, "x").receipt is None
