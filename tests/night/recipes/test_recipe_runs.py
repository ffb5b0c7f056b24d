"""What recipes print is run here by the shells that they are for: what each exit code comes to."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import runpy
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from batchflux.errors import StorageError
from batchflux.ledger.connection import reading
from batchflux.night.recipes import files_of
from batchflux.night.recipes.night import Night
from batchflux.output.folder import FolderLock
from tests.night.recipes.test_recipes import words_of_unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.night.recipes.conftest import Recipes

ROOT = Path(__file__).parents[3]
CODES = (0, 1, 2, 3, 4, 70, 130, 143)
SIMULATED = """\
version: 1
name: shop
provider: {name: simulator, options: {latency: 0, size: 64}}
jobs:
  - {id: a, prompt: x}
  - {id: b, prompt: y}
"""


def ending(code: int, folder: Path) -> Night:
    """Return a night whose program says a line and ends with a code."""
    return Night(
        name="shop",
        manifest=folder / "night.yaml",
        work=folder,
        out=folder / "out",
        env_file=None,
        given=(),
        program=("/bin/sh", "-c", f"echo it said; exit {code}"),
        keys=("TUZI_KEY",),
        filed=("TUZI_KEY",),
        key_folder=Path("/etc/batchflux"),
        again=True,
        grace=420,
        at=(22, 30),
        until=(6, 0),
        zone="Asia/Shanghai",
        user="ann",
        owner="1000:1000",
        image="batchflux",
        extras=(),
        mirrored=False,
        version="1",
    )


def by_cron(crontab: str) -> list[str]:
    """Return what cron runs for the last line of a crontab: it takes the backslash before % away (crontab(5))."""
    *_, command = crontab.splitlines()[-1].split(" ", 5)
    assert not re.search(r"(?<!\\)%", command)
    return ["/bin/sh", "-c", command.replace("\\%", "%")]


@pytest.mark.parametrize("code", CODES)
def test_cron_mails_what_somebody_should_know_and_nothing_else(recipes: Recipes, code: int) -> None:
    made = files_of("cron", ending(code, recipes.folder), recipes.folder)
    for name, text in made.items():
        (recipes.folder / name).write_text(text, encoding="utf-8")
    ended = subprocess.run(by_cron(made["crontab"]), capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert (ended.returncode, ended.stderr) == (code, "")
    assert bool(ended.stdout) == (code in {1, 2, 3, 70})
    if ended.stdout:
        assert ended.stdout.startswith("it said\n")
        assert f"Exit code {code}: " in ended.stdout


@pytest.mark.parametrize("code", CODES)
def test_actions_fail_only_where_somebody_has_to_act(recipes: Recipes, tmp_path: Path, code: int) -> None:
    text = files_of("actions", ending(code, recipes.folder), recipes.folder)[".github/workflows/batchflux-shop.yml"]
    step = next(step for step in yaml.safe_load(text)["jobs"]["night"]["steps"] if step.get("id") == "run")
    (tmp_path / "batchflux").write_text(f"#!/bin/sh\necho $0 $1; exit {code}\n")
    (tmp_path / "batchflux").chmod(0o755)
    (recipes.folder / "out").mkdir()
    (recipes.folder / "out" / "ledger.db").write_text("")
    env = {name: str(value) for name, value in step["env"].items()} | {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    shell = ["bash", "--noprofile", "--norc", "-e", "-c", step["run"]]
    ended = subprocess.run(shell, capture_output=True, text=True, check=False, env=env, cwd=recipes.folder, timeout=60)
    assert ended.returncode == (0 if code in {0, 1, 3} else code)
    assert ("::warning::" in ended.stdout) == (code == 1)
    assert ("::notice::" in ended.stdout) == (code == 3)
    assert "batchflux status" in (tmp_path / "summary").read_text()


def test_docker_is_given_the_same_words_and_each_folder_at_its_own_place(recipes: Recipes, tmp_path: Path) -> None:
    far = tmp_path / 'far, "x" 猫'
    text = recipes.files("docker", "--out", str(far), "--budget", "5", "--keys", str(far / "keys"))["batchflux-shop.sh"]
    (tmp_path / "docker").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "docker").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    said = subprocess.run(
        ["/bin/sh", "-c", text], capture_output=True, text=True, check=True, env=env, timeout=60
    ).stdout
    words = said.split("\0")[:-1]
    behind = words.index("batchflux:0.1.0")
    assert words[behind + 1 :] == ["run", str(recipes.folder / "night.yaml"), "--out", str(far), "--budget", "5"]
    mounts = [next(csv.reader([word])) for before, word in pairwise(words[:behind]) if before == "--mount"]
    seen = [str(far / "keys" / "TUZI_KEY"), str(recipes.folder), str(far)]
    assert mounts == [["type=bind", f"source={place}", f"target={place}"] for place in seen]
    assert words[words.index("--workdir") + 1] == str(recipes.folder)
    assert f"TUZI_KEY_FILE={far}/keys/TUZI_KEY" in words


class Skipped(Exception):  # noqa: N818  as in Airflow, where it is AirflowSkipException
    pass


class Again(Exception):  # noqa: N818  AirflowException: the task is retried
    pass


class Over(Exception):  # noqa: N818  AirflowFailException: the task is not
    pass


class BashOperator:
    """What Airflow's does with a command and its exit code, templates apart."""

    made: BashOperator

    def __init__(self, **given: Any) -> None:
        self.given = given
        BashOperator.made = self

    def execute(self) -> object:
        given, raw = self.given, re.compile(r"{% raw %}(.*?){% endraw %}")
        command, cwd = (raw.sub(lambda match: match[1], given[name]) for name in ("bash_command", "cwd"))
        assert "{" not in raw.sub("", given["bash_command"])
        shell = ["bash", "-c", command]
        ended = subprocess.run(shell, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
        if ended.returncode in given["skip_on_exit_code"]:
            raise Skipped
        if ended.returncode:
            raise Again
        return given["output_processor"](ended.stdout.splitlines()[-1])


class Dag:
    def __init__(self, **_given: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in place of Airflow, which is too large to install, the names that a DAG imports."""
    names: dict[str, dict[str, object]] = {
        "pendulum": {"datetime": lambda *_, **__: None},
        "airflow": {"DAG": Dag},
        "airflow.exceptions": {"AirflowFailException": Over},
        "airflow.providers": {},
        "airflow.providers.standard": {},
        "airflow.providers.standard.operators": {},
        "airflow.providers.standard.operators.bash": {"BashOperator": BashOperator},
    }
    for name, values in names.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("airflow")
@pytest.mark.parametrize("code", CODES)
def test_airflow_retries_what_stopped_and_skips_what_another_runs(recipes: Recipes, code: int) -> None:
    text = files_of("airflow", ending(code, recipes.folder), recipes.folder)["batchflux-shop.py"]
    (recipes.folder / "dag.py").write_text(text, encoding="utf-8")
    runpy.run_path(str(recipes.folder / "dag.py"))
    wanted = {0: None, 1: None, 3: Again, 4: Skipped}.get(code, Over)
    if wanted is None:
        assert BashOperator.made.execute() == code
        return
    with pytest.raises(wanted):
        BashOperator.made.execute()


@pytest.mark.parametrize(
    ("at", "until", "open_at", "shut_at"),
    [
        ((22, 30), (6, 0), ("2230", "0005", "0559"), ("0600", "0830", "2229")),
        ((1, 0), (8, 5), ("0100", "0804"), ("0059", "0805", "2300")),
    ],
)
def test_systemd_begins_nothing_when_the_night_is_over(
    recipes: Recipes, tmp_path: Path, at: tuple[int, int], until: tuple[int, int], open_at: Any, shut_at: Any
) -> None:
    begins = [f"--at={at[0]}:{at[1]:02}", "--set", f"limits.deadline={until[0]:02}:{until[1]:02}"]
    command = words_of_unit(recipes.files("systemd", *begins)["batchflux-shop.service"], "ExecCondition")
    (tmp_path / "date").write_text("#!/bin/sh\necho $NOW\n")
    (tmp_path / "date").chmod(0o755)
    for now in (*open_at, *shut_at):
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NOW": now}
        ended = subprocess.run(command, check=False, env=env, timeout=60)
        assert ended.returncode == (100 if now in shut_at else 0), now


@pytest.fixture
def simulated(recipes: Recipes) -> Callable[..., subprocess.Popen[str]]:
    """Print the recipe for cron, and start its script."""
    (recipes.folder / "night.yaml").write_text(SIMULATED, encoding="utf-8")

    def start(*options: str) -> subprocess.Popen[str]:
        recipes.files("cron", *options)
        script = ["/bin/sh", str(recipes.folder / "cron" / "batchflux-shop.sh")]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        return subprocess.Popen(script, stdout=pipe, stderr=pipe, text=True, env=env, start_new_session=True)

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 0, ""),
        (("--set", "jobs.1.image=gone.png"), 1, "some jobs failed"),
        (("--set", "provider.price=0.1", "--budget", "0.1", "--concurrency", "1"), 3, "run again to continue"),
    ],
)
def test_a_night_on_the_simulator(simulated: Any, options: tuple[str, ...], code: int, says: str) -> None:
    out, err = simulated(*options).communicate(timeout=60)
    assert err == ""
    assert says in out
    assert bool(out) == bool(says)
    assert (out.rpartition("Exit code ")[2][:1] or "0") == str(code)


@pytest.mark.slow
def test_a_second_run_is_quiet_and_a_fault_is_not(simulated: Any, recipes: Recipes) -> None:
    lock = FolderLock(recipes.folder / "out" / "shop")
    lock.acquire()
    process = simulated()
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 4)
    lock.release()
    (recipes.folder / "night.yaml").write_text("version: 2\n", encoding="utf-8")
    script = recipes.folder / "cron" / "batchflux-shop.sh"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, check=False, env=env, timeout=60)
    assert ended.returncode == 2
    assert "night.yaml:1: version" in ended.stdout


def called(out: Path) -> None:
    """Wait until a run has a call under way: an attempt is on record before its request leaves."""
    end = time.monotonic() + 60
    while True:
        assert time.monotonic() < end, "no call left"
        with contextlib.suppress(StorageError, sqlite3.OperationalError), reading(out / "ledger.db") as connection:
            if connection.execute("SELECT COUNT(*) FROM attempts").fetchone() != (0,):
                return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_stop_waits_for_the_calls_under_way_and_is_quiet(simulated: Any, recipes: Recipes) -> None:
    process = simulated("--set", "provider.options.latency=5", "--concurrency", "1")
    called(recipes.folder / "out" / "shop")
    os.killpg(process.pid, signal.SIGTERM)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "", 143)
    assert [path.stem for path in (recipes.folder / "out" / "shop" / "images").iterdir()] == ["a"]


@pytest.mark.slow
def test_the_line_of_systemd_runs(recipes: Recipes) -> None:
    (recipes.folder / "night.yaml").write_text(SIMULATED, encoding="utf-8")
    command = words_of_unit(recipes.files("systemd")["batchflux-shop.service"], "ExecStart")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["/bin/sh", "-c", shlex.join(command)], check=False, env=env, cwd=recipes.folder, timeout=60)
    assert ended.returncode == 0
    assert len(list((recipes.folder / "out" / "shop" / "images").iterdir())) == 2
