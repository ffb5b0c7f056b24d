"""results.csv: to the letter, safe in a spreadsheet, and whole at every moment."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import signal
import sqlite3
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import StorageError
from batchflux.exports.base import HEADER, cells, neutralised
from batchflux.exports.results_csv import Results
from batchflux.ledger.tables import Known, ended_rows
from batchflux.output.folder import iso

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Start

COLUMNS = (
    "id,status,file_name,prompt,images,seed,aspect_ratio,output_format,model,provider,style,width,height,bytes,sha256,"
    "attempts,possibly_billed,cost,error_code,error,started_at,finished_at,api_seconds,download_seconds,result_url,key,"
    "remarks,seed_used,revised_prompt"
)

LATER = ("remarks", "seed_used", "revised_prompt")


def known(number: int = 0, **fields: Any) -> Known:
    spec = {"prompt": f"mug {number}", "images": [], "model": "m", "provider": "tuzi", "style": "standard"}
    spec |= fields.pop("spec", {})
    values: dict[str, Any] = dict.fromkeys(Known._fields)
    values |= {
        "number": number,
        "key": number.to_bytes(32, "big"),
        "id": f"j{number}",
        "position": number,
        "listed": 1,
        "planned": f"images/j{number}.png",
        "tags": "",
        "spec": json.dumps(spec),
        "status": "done",
        "attempts": 1,
        "possibly_billed": 0,
        "cost": 140_000_000,
        "maybe_cost": 0,
        "file_name": f"images/j{number}.png",
        "width": 64,
        "height": 48,
        "bytes": 7,
        "sha256": "ab" * 32,
        "started_at": 0.0,
        "finished_at": 1_764_000_000.1239,
        "api_seconds": 2.5,
        "download_seconds": 0.25,
    }
    return Known(**(values | fields))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_columns_stand_in_their_order(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv", ["sku", "größe"])
    results.rewrite([])
    assert (tmp_path / "results.csv").read_text(encoding="utf-8") == f"{COLUMNS},tags.sku,tags.größe\n"
    assert ",".join(HEADER) == COLUMNS


def test_a_row_of_a_done_job(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv", ["sku", "none"])
    row = known(
        3,
        tags='{"sku": "M-1"}',
        link="https://cdn.example/a.png?token=canary",
        spec={
            "images": ["photos/a b.jpg", "https://x.example/b.jpg"],
            "seed": 42,
            "aspect_ratio": "16:9",
            "output_format": "png",
        },
    )
    results.append([row])
    results.close()
    (found,) = read(tmp_path / "results.csv")
    assert found == {
        "id": "j3",
        "status": "done",
        "file_name": "images/j3.png",
        "prompt": "mug 3",
        "images": "photos/a b.jpg https://x.example/b.jpg",
        "seed": "42",
        "aspect_ratio": "16:9",
        "output_format": "png",
        "model": "m",
        "provider": "tuzi",
        "style": "standard",
        "width": "64",
        "height": "48",
        "bytes": "7",
        "sha256": "ab" * 32,
        "attempts": "1",
        "possibly_billed": "0",
        "cost": "0.14",
        "error_code": "",
        "error": "",
        "started_at": "1970-01-01T00:00:00.000Z",
        "finished_at": "2025-11-24T16:00:00.123Z",
        "api_seconds": "2.500",
        "download_seconds": "0.250",
        "result_url": "https://cdn.example/a.png",
        "key": f"{3:064x}",
        "remarks": "",
        "seed_used": "",
        "revised_prompt": "",
        "tags.sku": "M-1",
        "tags.none": "",
    }


def test_a_row_of_a_failed_job(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv", [])
    nothing: dict[str, Any] = dict.fromkeys(
        ("file_name", "width", "height", "bytes", "sha256", "api_seconds", "download_seconds")
    )
    results.append([known(status="failed", error_code="server", error="it fell over", cost=0, **nothing)])
    results.close()
    (found,) = read(tmp_path / "results.csv")
    empty = {name for name, value in found.items() if value == ""}
    assert empty == {*nothing, "images", "seed", "aspect_ratio", "output_format", "result_url", *LATER}
    assert (found["status"], found["error_code"], found["error"], found["cost"]) == (
        "failed",
        "server",
        "it fell over",
        "0",
    )


def test_what_was_dropped_is_said(tmp_path: Path) -> None:
    row = known(spec={"style": "chat", "dropped": ["seed", "aspect_ratio"]})
    note = "not sent, style chat cannot carry it: seed, aspect_ratio"
    assert (cells(row, [])[HEADER.index("remarks")], cells(row, [])[HEADER.index("error")]) == (note, None)
    wide = known(spec={"style": "chat", "dropped": ["seed"]}, remarks="a GIF came", error="late")
    assert cells(wide, [])[HEADER.index("remarks")] == "a GIF came; not sent, style chat cannot carry it: seed"
    assert cells(wide, [])[HEADER.index("error")] == "late"


SIGNS = [*"=+-@", *"\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"]
BEFORE = ["", " ", "\xa0", '"', "\ufeff", "\u3000"]


@pytest.mark.parametrize("start", [*SIGNS, "\t", "\r", "\n"])
def test_no_cell_is_a_formula(tmp_path: Path, start: str) -> None:
    evil = f"{start}HYPERLINK(A1)"
    results = Results(tmp_path / "results.csv", ["t"])
    spec = {"prompt": evil, "images": [evil], "model": evil, "provider": evil}
    results.append([known(id=evil, spec=spec, tags=json.dumps({"t": evil}), error=evil, link=evil)])
    results.close()
    (found,) = read(tmp_path / "results.csv")
    for name in ("id", "prompt", "images", "model", "provider", "error", "tags.t"):
        assert found[name] == "'" + evil, name
    assert [name for name, cell in found.items() if cell.startswith((*SIGNS, "\t", "\r", "\n"))] == []


@pytest.mark.parametrize("sign", SIGNS)
def test_no_part_of_a_cell_is_a_formula_where_lines_are_split_at_semicolons(tmp_path: Path, sign: str) -> None:
    """In such a locale our quotes neither begin nor end a cell of Excel's."""
    path = tmp_path / "results.csv"
    for before in BEFORE:
        evil = f"a mug;{before}{sign}cmd|' /C calc'!A0;b"
        Results(path, ["t"]).rewrite([known(spec={"prompt": evil})])
        line = path.read_bytes().decode().partition("\n")[2]
        parts = line.split(";")
        assert [part for part in parts if part.lstrip(' "\xa0\ufeff\u3000').startswith(tuple(SIGNS))] == []
        (found,) = read(path)
        assert found["prompt"] == evil.replace(f";{before}{sign}", f";'{before}{sign}")


def test_a_harmless_cell_stays_as_it_is() -> None:
    assert neutralised("a = b") == "a = b"
    assert neutralised("") == ""
    assert neutralised("'quoted'") == "'quoted'"
    assert neutralised("a mug; red, 5 - 3 = 2\n- mail me @ home") == "a mug; red, 5 - 3 = 2\n- mail me @ home"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(prompts=st.lists(TEXT, min_size=1, max_size=8), tag=TEXT)
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, prompts: list[str], tag: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "results.csv"
    results = Results(path, ["t"])
    for number, prompt in enumerate(prompts):
        results.append([known(number, spec={"prompt": prompt}, tags=json.dumps({"t": tag}))])
    results.close()
    appended = read(path)
    assert [row["prompt"] for row in appended] == [neutralised(prompt) for prompt in prompts]
    assert {row["tags.t"] for row in appended} == {neutralised(tag)}
    before = path.read_bytes()
    results.rewrite(known(n, spec={"prompt": prompt}, tags=json.dumps({"t": tag})) for n, prompt in enumerate(prompts))
    assert path.read_bytes() == before


def test_rows_appear_as_jobs_end(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv", [])
    for number in range(5):
        results.append([known(number)])
        assert [row["id"] for row in read(tmp_path / "results.csv")] == [f"j{n}" for n in range(number + 1)]
    results.close()
    results.append([known(5)])
    results.close()
    assert len(read(tmp_path / "results.csv")) == 6


def test_a_rewrite_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results = Results(path, [])
    results.append([known(2), known(1)])
    before = path.read_bytes()

    def breaks() -> Any:
        yield known(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"results\.csv cannot be written \(No space left on device\): free space"):
        results.rewrite(breaks())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]
    results.rewrite([known(1), known(2)])
    assert [row["id"] for row in read(path)] == ["j1", "j2"]
    results.append([known(3)])
    results.close()
    assert [row["id"] for row in read(path)] == ["j1", "j2", "j3"]


def test_intact_tells_what_must_be_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results = Results(path, ["sku"])
    assert not results.intact()
    path.touch()
    assert not results.intact()
    results.rewrite([known(1, spec={"prompt": "two\nlines"})])
    assert results.intact()
    whole = path.read_bytes()
    for cut in (1, 10, len(whole) - len(COLUMNS), len(whole) - 3):
        path.write_bytes(whole[:-cut])
        assert not results.intact()
    path.write_bytes(whole)
    assert not Results(path, []).intact()
    assert not Results(path, ["sku", "colour"]).intact()
    path.unlink()
    path.mkdir()
    assert not results.intact()


FULL = textwrap.dedent("""
    import json, resource, sys
    from pathlib import Path
    from batchflux.errors import StorageError
    from batchflux.ledger.ledger import Known
    from batchflux.exports.results_csv import Results

    path, limit, fields = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    fields["key"] = bytes(32)
    results = Results(path, [])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    written = 0
    try:
        while True:
            results.append([Known(**fields)] * 3)
            written += 3
    except StorageError as error:
        print(written, error)
""")


@pytest.mark.parametrize("limit", [900, 4096])
def test_a_full_disk_leaves_whole_rows(tmp_path: Path, start: Start, limit: int) -> None:
    path = tmp_path / "results.csv"
    row = known(spec={"prompt": 'one\ntwo\nthree, "four"'})
    fields = json.dumps({name: getattr(row, name) for name in Known._fields if name != "key"})
    out, err = start(FULL, path, limit, fields).communicate(timeout=60)
    assert err == ""
    written, _, message = out.partition(" ")
    assert "File too large" in message
    assert len(read(path)) == int(written)
    assert path.stat().st_size <= limit
    assert Results(path, []).intact()


def test_a_full_disk_at_the_header_leaves_a_file_that_is_not_taken_for_whole(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "results.csv"
    fields = json.dumps({name: getattr(known(), name) for name in Known._fields if name != "key"})
    out, err = start(FULL, path, 100, fields).communicate(timeout=60)
    assert (err, out.startswith("0 ")) == ("", True)
    assert path.read_bytes() == b""
    assert not Results(path, []).intact()


KILLED = textwrap.dedent("""
    import json, sys
    from pathlib import Path
    from batchflux.ledger.ledger import Known
    from batchflux.exports.results_csv import Results

    fields = json.loads(sys.argv[2])
    fields["key"] = bytes(32)
    results = Results(Path(sys.argv[1]), [])
    rows = [Known(**fields)] * 50
    while True:
        results.append(rows)
        print("+", flush=True)
""")


def test_a_kill_cuts_no_more_than_the_last_row_which_the_next_run_writes(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "results.csv"
    row = known(spec={"prompt": 'one\ntwo\nthree, "four"' * 50})
    fields = json.dumps({name: getattr(row, name) for name in Known._fields if name != "key"})
    process = start(KILLED, path, fields)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = read(path)
    assert len(found) >= 20 * 50
    assert {row["prompt"] for row in found[:-1]} == {'one\ntwo\nthree, "four"' * 50}
    results = Results(path, [])
    results.rewrite([row] * 2)
    assert results.intact()
    assert len(read(path)) == 2


def test_ended_rows_are_those_listed_in_manifest_order(tmp_path: Path, filled: Callable[..., Path]) -> None:
    def backwards(number: int, row: dict[str, Any], spec: dict[str, Any]) -> None:
        row["position"] = -number

    folder = filled(tmp_path / "out", count=6, failing=3, change=backwards)
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.execute("UPDATE jobs SET listed = 0 WHERE id = 'job-000001'")
        connection.execute("UPDATE jobs SET status = 'pending' WHERE id = 'job-000003'")
        rows = [(row.id, row.status) for row in ended_rows(connection)]
        skipping = [row.id for row in ended_rows(connection, lambda number: number == 1)]
    assert rows == [(f"job-{n:06}", "failed" if n in {2, 5} else "done") for n in (5, 4, 2, 0)]
    assert skipping == ["job-000005", "job-000004", "job-000002"]


def test_times_are_utc() -> None:
    assert iso(None) == ""
    assert iso(0.0) == "1970-01-01T00:00:00.000Z"
    assert iso(1_764_000_000.9996) == "2025-11-24T16:00:00.999Z"


def test_what_the_ledger_knows_of_the_answer_is_shown() -> None:
    row = known()._replace(remarks="=asked for png", seed_used=7, revised_prompt="a better mug")
    shown = dict(zip(HEADER, cells(row, []), strict=True))
    assert [shown[name] for name in LATER] == ["'=asked for png", 7, "a better mug"]


def test_a_file_for_excel_begins_with_the_mark_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    plain, excel = Results(path, []), Results(path, [], bom=True)
    plain.append([known()])
    plain.close()
    assert not excel.intact()
    excel.rewrite([known()])
    assert excel.intact()
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,status,")
    after = Results(path, [])  # as who brings in verdicts opens it
    after.rewrite([known(), known()])
    after.append([known()])
    assert path.read_bytes().count(b"\xef\xbb\xbf") == 1
    after.close()
    assert after.intact()
