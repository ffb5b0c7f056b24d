"""`batchflux reconcile OUT --billing FILE`: what each difference is called, what it sums to, and how it exits."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from batchflux.cli import cli
from batchflux.errors import UsageError

if TYPE_CHECKING:
    from tests.billing.conftest import Folder


def at(seconds: float) -> str:
    """Return so many seconds after the folder's run began, as books have it."""
    return datetime.fromtimestamp(1_795_000_000 + seconds, UTC).isoformat()


def run(folder: Folder, rows: list[str], *more: str, head: str = "request_id,created_at,cost,currency,model") -> Any:
    """Compare a folder with an export of these rows."""
    file = folder.path.parent / "books.csv"
    file.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    arguments = ["reconcile", str(folder.path), "--billing", str(file), *more]
    return CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)


def data(folder: Folder, rows: list[str], *more: str) -> dict[str, Any]:
    """Return the one provider's part of the JSON."""
    return dict(json.loads(run(folder, rows, "--json", *more).stdout)["books"][0])


def line(receipt: str, seconds: float, cost: str = "0.14", currency: str = "USD") -> str:
    return f"{receipt},{at(seconds)},{cost},{currency},flux-kontext-pro"


def test_books_that_agree(folder: Folder) -> None:
    folder.sends({"receipt": "a"}, {"receipt": "b", "cost": "0.1"}, {"end": "refused", "receipt": "c"})
    ran = run(folder, [line("a", 60), line("b", 130, "0.10")])
    assumed = "id: request_id, time: created_at, amount: cost, currency: currency, model: model"
    assert ran.return_value == 0
    assert ran.stdout.splitlines() == [
        "studio (books.csv)",
        "  ours       3 attempts, 0.24 USD",
        "  theirs     2 lines, 0.24 USD",
        "  matched    2, 0.24 USD",
        f"  assumed    {assumed}, times: UTC where they name no zone",
        "The books agree.",
    ]


@pytest.mark.parametrize("jobs", ["", "jobs: [{from: gone.csv, prompt: x}]\n"], ids=["a gateway's", "a table's"])
def test_the_jobs_of_the_manifest_need_not_be_there(folder: Folder, jobs: str) -> None:
    folder.sends({"receipt": "a"})
    text = f"version: 1\nname: m\nprovider: {{name: studio, base_url: 'http://127.0.0.1:9', price: 0.14}}\n{jobs}"
    (folder.path / "manifest.yaml").write_text(text, encoding="utf-8")
    assert run(folder, [line("a", 60)]).return_value == 0


def test_each_difference_is_named_and_sums_are_right(folder: Folder) -> None:
    """A gap, a repeat, a stranger's request, another price, another currency, a lost one, and one that was free."""
    sent = [{"job": name, "receipt": name} for name in ("same", "gap", "twice", "dear", "yuan")]
    sent += [{"job": "free", "receipt": "free", "end": "refused"}, {"job": "lost", "end": "lost"}]
    folder.sends(*sent, {"job": "vain", "end": "lost", "price": "0.1"})
    rows = [line("same", 60), line("twice", 210), line("twice", 210), line("dear", 280, "0.20")]
    rows += [line("yuan", 350, "1.00", "CNY"), line("free", 420), line("stranger", 9000, "0.33"), line("", 485)]
    found = data(folder, rows)
    assert found["agrees"] is False
    assert found["sums"] == {
        "ours": {"USD": "0.7"},
        "ours_possibly": {"USD": "0.24"},
        "theirs": {"CNY": "1", "USD": "1.23"},
    }
    assert found["counts"] == {
        "matched": 6, "only_ours": 1, "only_theirs": 1, "repeated": 1, "unclear": {"ours": 0, "theirs": 0}, "free": 0,
        "untold": 0,
    }  # fmt: skip
    named = [(one["kind"], one["job"] or one["id"], one["ours"], one["theirs"]) for one in found["differences"]]
    usd = {text: {"amount": text, "currency": "USD"} for text in ("0", "0.14", "0.2", "0.33")}
    assert named == [
        ("amount", "dear", usd["0.14"], usd["0.2"]),
        ("currency", "yuan", usd["0.14"], {"amount": "1", "currency": "CNY"}),
        ("counted_free", "free", usd["0"], usd["0.14"]),
        ("only_ours", "gap", usd["0.14"], None),
        ("repeated", "twice", None, usd["0.14"]),
        ("only_theirs", "stranger", None, usd["0.33"]),
    ]
    assert found["decided"] == [
        {"job": "lost", "attempt": 7, "billed": usd["0.14"]},
        {"job": "vain", "attempt": 8, "billed": usd["0"]},
    ]
    ran = run(folder, rows)
    assert ran.return_value == 1
    assert "  differs    gap, attempt 2, 2026-11-18T11:08:50.000Z: 0.14 USD, which is not in the books" in ran.stdout
    assert '  differs    "stranger", 2026-11-18T13:36:40.000Z: 0.33 USD, of no attempt of this folder' in ran.stdout
    assert "  decided    lost, attempt 7: billed, 0.14 USD" in ran.stdout
    assert ran.stdout.endswith("The books differ.\n")


def test_a_task_is_known_by_its_id_also_when_its_api_forgot_it(folder: Folder) -> None:
    folder.manifest('name: bfl, base_url: "http://127.0.0.1:9", keys: [BFL_API_KEY]')
    task = {"handle": '{"id": "t1", "url": "https://api.bfl.ai/v1/get_result?id=t1"}'}
    folder.sends({"job": "a", **task, "end": "lost"}, {"job": "b", "handle": '{"id": "t2"}'}, provider="bfl")
    found = data(folder, [line("t1", 60, "0.04"), line("t2", 130)])
    assert (found["agrees"], found["counts"]["matched"]) == (True, 2)
    assert [one["billed"]["amount"] for one in found["decided"]] == ["0.04"]


def test_nothing_is_changed(folder: Folder) -> None:
    folder.sends({"receipt": "a"}, {"end": "lost"})
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    run(folder, [line("a", 60)])
    assert {path.name: path.read_bytes() for path in folder.path.iterdir() if path.name in before} == before


def test_what_is_alike_is_said_and_not_guessed(folder: Folder) -> None:
    """Without names, at the same minute: as many of the same sum agree, one fewer does not."""
    folder.sends({"job": "a"}, {"job": "b"}, {"job": "c"})
    rows = [line("", seconds) for seconds in (61, 131, 201)]
    ran = run(folder, rows)
    assert ran.return_value == 0
    assert "3 attempts that cannot be told apart, and as many lines of the same sum" in ran.stdout
    ran = run(folder, rows[:2])
    assert ran.return_value == 1
    assert "0.42 USD of 3 attempts that are alike (a (1), b (2), c (3)), 0.28 USD in the books" in ran.stdout
    assert run(folder, rows, "--window", "5s").stdout.count("matched    3") == 1


def test_times_of_another_zone_and_a_part_of_the_time(folder: Folder) -> None:
    folder.sends({"job": "a"}, {"job": "b"})
    local = datetime.fromtimestamp(1_795_000_065 + 8 * 3600, UTC).replace(tzinfo=None).isoformat(" ")
    rows = [f",{local},0.14,USD,flux-kontext-pro"]
    assert run(folder, rows, "--window", "10s").return_value == 1
    ran = run(folder, rows, "--window", "10s", "--timezone", "Asia/Shanghai", "--until", at(100))
    assert ran.return_value == 0


def test_columns_and_a_currency_that_are_named(folder: Folder) -> None:
    folder.sends({"receipt": "a"})
    head, rows = "what;which;much", [f"{at(60)};a;0,14"]
    ran = run(folder, rows, "--columns", "id=which,amount=much,time=what", "--currency", "usd", head=head)
    assert ran.return_value == 0


def test_of_several_providers_it_has_to_be_said_whose_books_they_are(folder: Folder) -> None:
    several = '{one: {base_url: "http://127.0.0.1:9", price: 0.14}, two: {base_url: "http://127.0.0.1:8", price: 0.14}}'
    text = f"version: 1\nname: m\nproviders: {several}\njobs: [{{prompt: x}}]\n"
    (folder.path / "manifest.yaml").write_text(text, encoding="utf-8")
    folder.sends({"receipt": "a"}, provider="one")
    folder.sends({"receipt": "b"}, provider="two")
    with pytest.raises(UsageError, match="asked one, two: say whose books the file has, with --provider NAME"):
        run(folder, [line("a", 60)])
    assert run(folder, [line("a", 60)], "--provider", "one").return_value == 0
    with pytest.raises(UsageError, match="--provider: the folder asked one, two, not three"):
        run(folder, [line("a", 60)], "--provider", "three")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--timezone", "Mars/North"), "--timezone: found .*Mars/North"),
        (("--since", "yesterday"), "--since: found .*yesterday"),
        (("--window", "wide"), "--window: found .*wide"),
        (("--delimiter", "ab"), "--delimiter: found .*ab"),
        (("--encoding", "latin-99"), "--encoding: .*latin-99"),
    ],
)
def test_an_option_that_cannot_be_read(folder: Folder, more: tuple[str, ...], says: str) -> None:
    folder.sends({})
    with pytest.raises(UsageError, match=says):
        run(folder, [line("a", 60)], *more)


def test_a_folder_without_a_manifest_and_one_that_sent_nothing(folder: Folder) -> None:
    folder.sends()
    with pytest.raises(UsageError, match="asked no provider that has books"):
        run(folder, [line("a", 60)])
    folder.sends({})
    (folder.path / "manifest.yaml").unlink()
    with pytest.raises(UsageError, match=r"manifest\.yaml is missing, which says whose books to ask"):
        run(folder, [line("a", 60)])
