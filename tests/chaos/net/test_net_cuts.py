"""A connection cut at every byte of an answer: the job ends as the contract says and never with a wrong picture.

The oracle is what had arrived: a picture's link counts from the byte that closes it on; before that the request is one
that left and was not answered.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.net.conftest import Net, Program


def only_right_pictures(program: Program, net: Net) -> None:
    """All that lies under images/ is what was ordered, byte for byte."""
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in program.images()}
    assert found <= {hashlib.sha256(net.picture()).hexdigest()}


@pytest.mark.parametrize("style", ["standard", "chat"])
@pytest.mark.parametrize("how", ["reset", pytest.param("cut", marks=pytest.mark.slow)])
def test_an_api_answer_cut_at_every_offset(net: Net, program: Program, style: str, how: str) -> None:
    answer = net.origin.standard if style == "standard" else net.origin.chat
    size = len(answer("@cut:000*1 cat 000"))  # the links of all jobs are equally long
    step = 1 if how == "cut" else 7
    jobs = [f"@{how}:{offset}*1 cat {offset:03}" for offset in range(0, size, step)]
    ended = program.run(net.url, jobs, style=style)
    assert ended.code == 0, ended.out + ended.err
    only_right_pictures(program, net)
    posts = net.origin.posts()
    wrong = []
    for offset, row, prompt in zip(range(0, size, step), program.rows(), jobs, strict=True):
        closes = answer(prompt).find(b'"' if style == "standard" else b")", answer(prompt).find(b"http://127"))
        sent = "1" if offset > closes else "2"
        found = (row["status"], row["attempts"], row["possibly_billed"], row["cost"], str(posts[prompt]))
        if found != ("done", sent, str(int(sent) - 1), "0.14", sent):
            wrong.append((offset, closes, found))
    assert not wrong, wrong[:8]


def test_a_download_cut_at_every_offset_is_fetched_again_and_never_paid_again(net: Net, program: Program) -> None:
    size = len(net.framed(net.picture(), "image/png"))
    jobs = [f"~{how}:{offset}*1 cat" for offset in range(size) for how in ("cut", "reset")[: 1 + (offset % 7 == 0)]]
    ended = program.run(net.url, jobs)
    assert ended.code == 0, ended.out + ended.err
    only_right_pictures(program, net)
    assert len(program.images()) == len(jobs)
    assert {(row["status"], row["attempts"], row["possibly_billed"], row["cost"]) for row in program.rows()} == {
        ("done", "1", "0", "0.14")
    }
    assert set(net.origin.posts().values()) == {1}
    assert set(net.origin.fetched.values()) == {2}


def test_a_request_cut_on_its_way_may_have_been_billed(net: Net, program: Program) -> None:
    jobs = [f"@body:{offset}*1 cat {offset}" for offset in range(0, 300, 30)]
    assert program.run(net.url, jobs).code == 0
    assert {(row["status"], row["attempts"], row["possibly_billed"]) for row in program.rows()} == {("done", "2", "1")}
    assert set(net.origin.posts().values()) == {1}


@pytest.mark.slow
def test_what_is_always_cut_stays_unknown_and_is_sent_once_more_by_each_run(net: Net, program: Program) -> None:
    jobs = [f"@{how}:{offset} cat" for how in ("cut", "reset", "body") for offset in (0, 1, 17, 60, 90)]
    for run in (1, 2):
        ended = program.run(net.url, jobs)
        assert ended.code == 1, ended.out + ended.err
        rows = program.rows()
        assert {(row["status"], row["error_code"], row["cost"]) for row in rows} == {("unknown", "unknown", "0")}
        sent = {row["possibly_billed"] for row in rows}
        assert sent == {row["attempts"] for row in rows} == {str(run + 1)}, "the first run sends twice, others once"
    assert program.images() == []
    held = program.run(net.url, jobs, "--on-unknown", "hold")
    assert held.code == 1
    assert {row["attempts"] for row in program.rows()} == {"3"}


@pytest.mark.parametrize(
    ("offsets", "code", "rows"),
    [((120, 150), 1, {("failed", "download", "1", "0.14")}), ((0, 50), 3, set())],
    ids=["in the picture", "before it"],  # where no host answers, its pictures are left for the next run
)
def test_a_download_that_is_always_cut_is_not_paid_a_second_time(
    net: Net, program: Program, offsets: tuple[int, ...], code: int, rows: set[tuple[str, ...]]
) -> None:
    jobs = [f"~{how}:{offset} cat" for how in ("cut", "reset") for offset in offsets]
    for arguments in ([], ["--retry-failed"]):
        ended = program.run(net.url, jobs, *arguments, attempts=2, patience="1s")
        assert ended.code == code, ended.out + ended.err
        found = {(row["status"], row["error_code"], row["attempts"], row["cost"]) for row in program.rows()}
        assert found == rows
    assert net.origin.posts() == dict.fromkeys(jobs, 1), "the link is alive, so nothing new is paid"
    assert program.images() == []
