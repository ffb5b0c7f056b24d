"""What a recipe needs to know of a night: what is run where, by whom, from when to when, and by which keys."""

from __future__ import annotations

import hashlib
import math
import os
import pwd
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from batchflux.errors import UsageError, quoted
from batchflux.manifest import AutoTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchflux.manifest import Manifest
    from batchflux.manifest.reading.values import Deadline

MARGIN = 60  # seconds that a stop takes beyond the longest call: a picture that is under way, and the last files
DAY = 24 * 3600
HOSTED_MINUTES = 360  # that a job may take on the machines of GitHub
_SET_UP_MINUTES = 13  # of those for what is before and behind a run: packages, a cache fetched and kept
_LONGEST_SLUG = 33
_EXTRAS = {  # of batchflux → how a manifest shows that it needs it
    "cloud": r"\b(?!https?:|socks)[a-z][a-z0-9]*://",
    "excel": r"\.xlsx\b",
    "heic": r"\.hei[cf]\b",
    "parquet": r"\.parquet\b",
    "socks": r"\bsocks[45]",
}
_USUAL_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_ZONES = "zoneinfo/"


class Asked(dict[str, str]):
    """An environment that remembers in `names` which variables a manifest's reader looked for."""

    def __init__(self, environ: Iterable[tuple[str, str]]) -> None:
        super().__init__(environ)
        self.names: list[str] = []

    def __contains__(self, name: object) -> bool:
        self.names.append(str(name))
        return super().__contains__(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One manifest that is run every night, at `at` in `zone`.

    `work` is the folder that it is run in; `given` are words for `run` beside manifest and output folder. `keys` are
    the names of all secrets, `filed` of those for which a file lies in `key_folder` (the others are in a file of
    variables that is there). `owner` is the user as numbers, `1000:1000`. A stop may take `grace` seconds. What stopped
    before its end is taken up `again` in the same night; not where each run has a budget of its own, which it would
    spend anew.
    """

    name: str
    manifest: Path
    work: Path
    out: Path
    env_file: Path | None
    given: tuple[str, ...]
    program: tuple[str, ...]
    keys: tuple[str, ...]
    filed: tuple[str, ...]
    key_folder: Path
    grace: int
    again: bool
    at: tuple[int, int]
    until: tuple[int, int] | None
    zone: str
    user: str
    owner: str
    image: str
    extras: tuple[str, ...]
    mirrored: bool
    version: str

    @property
    def slug(self) -> str:
        """Its name in letters that all platforms take; what those leave out tells by a few of its hash."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:_LONGEST_SLUG].strip("-")
        told = hashlib.sha256(self.name.encode()).hexdigest()[:6]
        same = self.name.isascii() and len(self.name) <= _LONGEST_SLUG and plain
        return "batchflux-" + (plain if same else "-".join(filter(None, (plain, told))))

    @property
    def command(self) -> list[str]:
        """The words behind `batchflux` that run it where paths are those of this machine."""
        named = ["--out", str(self.out)]
        named += [] if self.env_file is None else ["--env-file", str(self.env_file)]
        return ["run", str(self.manifest), *named, *self.given]

    @property
    def run(self) -> list[str]:
        """The words that run it on this machine."""
        return [*self.program, *self.command]

    @property
    def folders(self) -> list[Path]:
        """The folders that a container has to see, none inside another."""
        wanted = [self.work, self.manifest.parent, self.out]
        wanted += [] if self.env_file is None else [self.env_file.parent]
        return [one for one in dict.fromkeys(wanted) if not any(other in one.parents for other in wanted)]

    def in_repository(self, path: Path) -> str:
        """Return a path as a checkout has it; UsageError: it is not in the folder that this is called in."""
        if not path.is_relative_to(self.work):
            raise UsageError(f"{path} is not in {self.work}: call this at the top of the repository that has it.")
        return str(path.relative_to(self.work))

    def below(self, path: Path, root: str) -> str:
        """Return a path as it is where `work` is at `root`; one that lies elsewhere comes to lie in it."""
        inside = path.relative_to(self.work) if path.is_relative_to(self.work) else Path(path.name)
        return str(Path(root) / inside)

    @property
    def package(self) -> str:
        """What pip installs."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"batchflux{extras}=={self.version}"

    @property
    def seconds(self) -> int | None:
        """How long the night is; None where the manifest gives it no end."""
        if self.until is None:
            return None
        minutes = 60 * (self.until[0] - self.at[0]) + self.until[1] - self.at[1]
        return 60 * minutes % DAY or DAY

    @property
    def hosted_minutes(self) -> int:
        """How many minutes of a night fit into a job of GitHub; UsageError: none."""
        most = HOSTED_MINUTES - _SET_UP_MINUTES - math.ceil(self.grace / 60)
        if most <= 0:
            raise UsageError(f"A call may take {self.grace - MARGIN} s, and GitHub ends a job after 6 h.")
        return most if self.seconds is None else min(most, self.seconds // 60)


def grace_of(manifest: Manifest) -> int:
    """Return how many seconds a stop may take: longer than the longest call, which is kept and not paid in vain."""
    timeouts = (manifest.limits_of(name).timeout for name in manifest.providers)
    return math.ceil(max(one.longest if isinstance(one, AutoTimeout) else one for one in timeouts)) + MARGIN


def keys_of(manifest: Manifest, asked: Iterable[str], extras: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all secrets of a manifest that needs `extras`; `asked` are those that its text named."""
    names = [*asked]
    for name in manifest.may_ask:
        provider = manifest.providers[name]
        names += () if provider.simulated else provider.keys
    for store in manifest.stores.values():
        names += filter(None, (store.access_key, store.secret_key, store.token))
    if "cloud" in extras:
        here = manifest.secrets(os.environ)
        names += [name for name in _USUAL_KEYS if here.get(name) is not None]
    return tuple(dict.fromkeys(names))


def extras_of(text: str) -> tuple[str, ...]:
    """Return which extras of batchflux a manifest needs, by what its text names."""
    return tuple(name for name, sign in _EXTRAS.items() if re.search(sign, text, re.IGNORECASE))


def until_of(deadline: Deadline | None, at: tuple[int, int]) -> tuple[int, int] | None:
    """Return when a night that begins `at` is over; None where its deadline is none, or a day away."""
    if deadline is None or deadline.clock is not None:
        return None if deadline is None else deadline.clock
    seconds = int(deadline.seconds or 0)
    minutes = (60 * at[0] + at[1] + seconds // 60) % (24 * 60)
    return divmod(minutes, 60) if seconds < DAY else None


def clock(text: str) -> tuple[int, int]:
    """Read `22:00`; ValueError: it is no time of day."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(f"found {quoted(text)}; allowed is a time of day, as 22:00")
    return int(match[1]), int(match[2])


def zone_of(text: str | None) -> str:
    """Return the name of a time zone: the one said, or this machine's. UsageError: there is none of that name."""
    for name in (text,) if text is not None else _here():
        try:
            return ZoneInfo(name).key
        except (ValueError, OSError, LookupError):
            if text is not None:
                raise UsageError(f"--zone: found {quoted(text)}; allowed is a name as Asia/Shanghai or UTC.") from None
    if datetime.now().astimezone().utcoffset():
        raise UsageError("This machine does not tell the name of its time zone: give it, as --zone Asia/Shanghai.")
    return "UTC"


def _here() -> Iterator[str]:
    yield os.environ.get("TZ", "").removeprefix(":")
    yield os.path.realpath("/etc/localtime").rpartition(_ZONES)[2]


def owner_of(user: str) -> str:
    """Return a user's number and that of his group, `1000:1000`; UsageError: there is no such user here."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"--user: {quoted(user)} is nobody on this machine; name who is to run it.") from None
    return f"{found.pw_uid}:{found.pw_gid}"


def program() -> tuple[str, ...]:
    """Return the words that start this very batchflux."""
    script = Path(sys.executable).with_name("batchflux")
    return (str(script),) if script.exists() else (sys.executable, "-m", "batchflux")
