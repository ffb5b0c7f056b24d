"""The program in a folder of its own, run against the bank: within this process, or as one that can be killed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from batchflux.failpoints import VARIABLE
from batchflux.testing.bank import KEY, PRICE, picture_of
from batchflux.testing.inside import inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


ROOT = Path(__file__).resolve().parents[2]
AT_IMPORT = (VARIABLE, "SSL_CERT_FILE")  # variables that are read as the program is imported
COLUMNS = (  # noqa: SIM905  reads like the table
    "id status file_name prompt images seed aspect_ratio output_format model provider style width height bytes sha256 "
    "attempts possibly_billed cost error_code error started_at finished_at api_seconds download_seconds result_url key "
    "remarks seed_used revised_prompt"
).split()


@dataclass
class Ended:
    """How a call of the program ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that was printed."""
        return self.out + self.err


@dataclass
class Program:
    """batchflux in a folder of its own; `out` is where `m.yaml` puts its output.

    What is started is a process. What is only called is one where `apart` says so, or it dies, or other limits hold
    for it; otherwise it is called within this process, many times faster.
    """

    folder: Path
    out: Path
    environ: dict[str, str]
    wrapper: tuple[str, ...] = ()
    preexec: Callable[[], None] | None = None
    apart: bool = False
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def manifest(self, url: str, jobs: str, *, limits: str = "", more: str = "") -> None:
        """Write `m.yaml` of these jobs, as YAML, and the photo `p/a.png`."""
        photo = self.folder / "p" / "a.png"
        photo.parent.mkdir(exist_ok=True)
        photo.write_bytes(picture_of("reference"))
        (self.folder / "m.yaml").write_text(
            f"version: 1\nname: m\n"
            f"provider: {{name: tuzi, base_url: {url}, keys: [TEST_KEY], price: {PRICE}, currency: CNY}}\n"
            f"limits: {{concurrency: 6, timeout: 20s{limits}}}\noutput: {{dir: {self.out}}}\n"
            f"{more}\njobs:\n{jobs}",
            encoding="utf-8",
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command as a process."""
        process = subprocess.Popen(
            [*self.wrapper, sys.executable, "-W", "error", "-m", "batchflux", *arguments],
            cwd=self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=self.preexec,  # noqa: PLW1509  limits of the child only; no thread of ours holds a lock it needs
        )
        self.started.append(process)
        return process

    def end_all(self) -> None:
        """End what is still running, and close all pipes: one left open fails whichever test comes next."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None and not pipe.closed:
                    pipe.close()
            process.wait()

    def finish(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for the end of a process."""
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    def __call__(self, *arguments: str, **environ: str) -> Ended:
        """Call a command, and wait for its end."""
        known = self.environ | environ
        other = any(known.get(name) != os.environ.get(name) for name in AT_IMPORT)
        if self.apart or self.wrapper or self.preexec or other:
            return self.finish(self.start(*arguments, **environ))
        return Ended(*inside(self.folder, known, *arguments))

    def run(self, *arguments: str, **environ: str) -> Ended:
        """Run `m.yaml`."""
        return self("run", "m.yaml", *arguments, **environ)

    def kill(self, process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> Ended:
        """Send a signal, and wait for the end."""
        process.send_signal(number)
        return self.finish(process)

    def rows(self, out: str = "", *, cut: bool = False) -> list[dict[str, str]]:
        """Return the rows of a folder's results.csv, which must be well-formed; none when there is no file yet.

        With `cut` a kill may have cut its last row; it is left out then.
        """
        path = self.folder / (out or self.out) / "results.csv"
        if not path.exists():
            return []
        data = path.read_bytes()
        if not data:
            return []
        assert cut or data.endswith(b"\n"), "results.csv ends with half a row"
        table = list(
            csv.reader(io.StringIO(data.decode(errors="replace" if cut else "strict"), newline=""), strict=not cut)
        )
        if cut and (len(table[-1]) < len(table[0]) or not data.endswith(b"\n")):
            table.pop()
            if not table:
                return []
        assert table[0][: len(COLUMNS)] == COLUMNS
        assert {len(row) for row in table} == {len(table[0])}, "results.csv has a row of another length"
        rows = [dict(zip(table[0], row, strict=True)) for row in table[1:]]
        ids = Counter(row["id"] for row in rows)
        assert not [name for name, count in ids.items() if count > 1], "results.csv has a job twice"
        return rows

    def status(self) -> dict[str, Any]:
        """Return what `status --json` says."""
        ended = self("status", str(self.out), "--json")
        assert ended.code == 0, ended.said
        loaded: dict[str, Any] = json.loads(ended.out)
        return loaded

    def summary(self) -> dict[str, Any]:
        """Return summary.json."""
        loaded: dict[str, Any] = json.loads((self.out / "summary.json").read_text(encoding="utf-8"))
        return loaded

    def log(self) -> list[dict[str, Any]]:
        """Return run.log's entries."""
        return [json.loads(line) for line in (self.out / "run.log").read_text(encoding="utf-8").splitlines()]

    def noted(self, event: str) -> int:
        """Return how often run.log has an event so far, while a run may be writing it."""
        path = self.out / "run.log"
        return path.read_text(encoding="utf-8").count(f'"event": "{event}"') if path.exists() else 0

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Return the ledger's rows by id, read from a copy so that nothing of it is touched."""
        copy = self.folder / "ledger-copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.out.glob("ledger.db*"):
            shutil.copy(path, copy / path.name)
        with closing(sqlite3.connect(copy / "ledger.db")) as connection:
            connection.row_factory = sqlite3.Row
            return {row["id"]: dict(row) for row in connection.execute("SELECT * FROM known")}

    def pictures(self) -> set[str]:
        """Return the ids whose picture is in place; each must be whole and the right one, and nothing else there."""
        names = set()
        for path in (self.out / "images").iterdir():
            with Image.open(path) as image:
                image.load()
                side = image.width
            assert path.read_bytes() == picture_of(path.stem, side), f"{path} is not its picture"
            names.add(path.stem)
        return names

    def leftovers(self) -> list[str]:
        """Return files that do not belong into a folder whose run has ended."""
        allowed = {"images", "results.csv", "summary.json", "manifest.yaml", "ledger.db", "run.log", ".lock", ".spool"}
        allowed |= {".cache", ".batches"}  # of photos, and of files on their way
        allowed |= {"README.md", "metadata.jsonl"}  # by which it is a dataset
        top = [path.name for path in self.out.iterdir() if path.name not in allowed]
        return top + [f"{name}/{path.name}" for name in (".spool", ".batches") for path in (self.out / name).glob("*")]


@contextmanager
def program_in(folder: Path) -> Iterator[Program]:
    """Give the program a folder of its own, and a key; what it started ends with it."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environ = {**os.environ, "PYTHONPATH": path, "TEST_KEY": KEY}
    environ |= dict.fromkeys(("XDG_STATE_HOME", "XDG_CACHE_HOME"), str(folder / "state"))
    environ.pop(VARIABLE, None)
    made = Program(folder, folder / "out", environ)
    yield made
    made.end_all()
