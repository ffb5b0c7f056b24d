"""A photo that goes as it is looked at: nothing of that is remembered of its bytes."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchflux.photos.photos import THREADS, Photos
from tests.photos.conftest import encoded

if TYPE_CHECKING:
    from tests.conftest import MakeJob


@pytest.mark.parametrize("there", ["elsewhere", "again"])
def test_what_was_gone_as_it_was_looked_at_is_looked_at_again(tmp_path: Path, make_job: MakeJob, there: str) -> None:
    begin = threading.Event()
    with closing(Photos(tmp_path, output=tmp_path / "out")) as photos:
        for _ in range(THREADS):
            photos._threads().submit(begin.wait)  # nothing is decoded before
        for name in ("first.png", "elsewhere.png"):
            (tmp_path / name).write_bytes(encoded("PNG"))
        found = {name: photos.reference(f"{name}.png") for name in ("first", "elsewhere")}
        (tmp_path / "first.png").rename(tmp_path / "aside")
        begin.set()
        (digest,) = {str(one.sha256) for one in found.values()}
        assert photos._looks[digest].result().fault == "cannot be read: No such file or directory"
        if there == "again":
            (tmp_path / "aside").rename(tmp_path / "first.png")
        image = found["first" if there == "again" else "elsewhere"]
        (job,) = photos.judged([make_job("a", images=(image,))])
        assert job.images[0].fault is None


def test_what_stays_away_is_said_until_it_is_back(tmp_path: Path, make_job: MakeJob) -> None:
    begin = threading.Event()
    with closing(Photos(tmp_path, output=tmp_path / "out")) as photos:
        for _ in range(THREADS):
            photos._threads().submit(begin.wait)
        (tmp_path / "a.png").write_bytes(encoded("PNG"))
        image = photos.reference("a.png")
        (tmp_path / "a.png").rename(tmp_path / "aside")
        begin.set()
        (job,) = photos.judged([make_job("a", images=(image,))])
        assert job.images[0].fault == "the reference a.png cannot be read: No such file or directory"
        (tmp_path / "aside").rename(tmp_path / "a.png")
        (job,) = photos.judged([make_job("a", images=(image,))])
        assert job.images[0].fault is None


CAUSES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EACCES)
OPEN, LIST = (Path, "open"), (os, "scandir")


@pytest.mark.parametrize(
    ("cause", "name", "what"), [*((cause, "a.png", OPEN) for cause in CAUSES), (errno.EMFILE, "caf\u00e9.png", LIST)]
)
def test_what_could_not_be_read_for_a_while_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: int, name: str, what: tuple[object, str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(cause, os.strerror(cause))

    for written in ("a.png", "cafe\u0301.png"):  # accents as macOS has them, for which the folder is listed
        (tmp_path / written).write_bytes(encoded("PNG"))
    with closing(Photos(tmp_path)) as photos:
        with monkeypatch.context() as broken:
            broken.setattr(*what, fails)
            fault = photos.reference(name).fault
            said = f"the reference {name} cannot be read: {os.strerror(cause)}; looked at {tmp_path / name}"
            assert fault == said
        assert photos.reference(name).fault is None
