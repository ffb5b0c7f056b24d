"""`python -m tests.fuzz TARGET... [--runs N | --minutes M] [--seed S] [--keep FOLDER]`, from the repository's root.

Bytes from strangers: what each reader of the program makes of broken ones.

    yaml      the manifest: reader, checks, templates, expansion
    sse       an answer of either style, cut into packets
    failures  the table from failed answers to error codes
    image     what is taken for a whole picture
    streams   chat streams whose right picture is known: no wrong one comes of them
    all       all of these

With --runs, so many inputs are made by chance from --seed, the same everywhere (the default: 10,000). With --minutes,
atheris looks for inputs that reach new code (`pip install -e '.[fuzz]'`; Linux on x86_64), each target for so long, and
keeps what it found in --keep for the next time; `streams` has no bytes to guide and always runs by chance.

An input that crashes, breaks a rule of its target or takes over a second of CPU ends the run with exit code 1, and is
written to a file that the last line names; `--file FILE` tries such a file again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import streams
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
NAMES = (*TARGETS, "streams")
LONGEST_SECONDS = 1.0  # of CPU, so that a busy machine is no fault


class BrokenError(Exception):
    """An input did what none may."""


def main() -> int:
    """Fuzz what was asked for; return the exit code."""
    arguments = _parse()
    names = list(NAMES) if "all" in arguments.targets else arguments.targets
    keep = arguments.keep.resolve()
    try:
        for name in names:
            if arguments.file is not None:
                _say(f"{name}: {TARGETS[name].check(arguments.file.resolve().read_bytes())}")
            elif arguments.minutes is not None and name in TARGETS:
                _guided(name, arguments.minutes, keep / name)
            else:
                _by_chance(name, arguments.runs, arguments.seed, keep / name)
    except BrokenError as error:
        _say(str(error))
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", choices=[*NAMES, "all"], metavar="TARGET")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=ROOT / "out" / "fuzz")
    parser.add_argument("--file", type=Path)
    return parser.parse_args()


def _by_chance(name: str, runs: int, seed: int, keep: Path) -> None:
    chance = Random(f"{name} {seed}")
    seeds = TARGETS[name].seeds() if name in TARGETS else []
    outcomes: Counter[str] = Counter()
    slowest, began = 0.0, time.monotonic()
    for number in range(runs):
        data = mutated(chance, seeds, TARGETS[name].words) if seeds else b""
        start = time.process_time()
        try:
            outcomes[str(TARGETS[name].check(data)) if seeds else streams.run(chance)] += 1
        except Exception as error:
            raise _broken(name, number, data, keep, f"{type(error).__name__}: {error}") from error
        took = time.process_time() - start
        slowest = max(slowest, took)
        if took > LONGEST_SECONDS:
            raise _broken(name, number, data, keep, f"it took {took:.1f} s of CPU")
    found = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    seconds, most = time.monotonic() - began, slowest * 1000
    _say(f"{name}: {runs} inputs in {seconds:.0f} s, the slowest {most:.0f} ms of CPU: {found}")


def _broken(name: str, number: int, data: bytes, keep: Path, what: str) -> BrokenError:
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f"broken-{number}"
    path.write_bytes(data)
    return BrokenError(f"{name}: input {number}: {what[:2000]}\n{path}")


def _guided(name: str, minutes: float, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, f"{minutes * 60:.0f}", str(keep)]
    ended = subprocess.run(command, cwd=ROOT, check=False)
    if ended.returncode:
        raise BrokenError(f"{name}: atheris ended with code {ended.returncode}; the input lies in\n{keep}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
