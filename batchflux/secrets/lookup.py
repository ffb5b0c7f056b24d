"""Looks up what `${NAME}` in a manifest and the names of keys stand for; the first place that has the name counts.

The places are the environment; the file that `NAME_FILE` names there (as container platforms mount secrets); the file
`$CREDENTIALS_DIRECTORY/NAME` (systemd.exec(5), LoadCredential=); the file that --env-file names; `.env` beside the
manifest. Line ends around a value are none of it. A value never enters a message.
"""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 1 << 20  # bytes of a file that is looked into
_ENDS = "\r\n"


class _Assigned(NamedTuple):
    """What a file of lines `NAME=value` assigns, and what is wrong with a line that assigns nothing."""

    values: Mapping[str, str]
    fault: str | None
    path: Path


_NOTHING = _Assigned({}, None, Path())


class Lookup(Protocol):
    """Finds values by name; a mapping does."""

    def get(self, name: str, /) -> str | None:
        """Return the value; None: it is not set anywhere. ValueError says in one sentence why it cannot be read."""
        ...


class Secrets:
    """Looks values up for one manifest, which lies in `beside`; UsageError where `env_file` cannot be read."""

    def __init__(self, environ: Mapping[str, str], beside: Path, env_file: Path | None = None) -> None:
        self._environ = environ
        self._beside = beside / ".env"
        try:
            self._given = _NOTHING if env_file is None else _assigned(env_file)
        except ValueError as error:
            raise UsageError(f"--env-file: {error}") from None

    def get(self, name: str, /) -> str | None:
        """Return the value; None: it is not set anywhere. ValueError says in one sentence why it cannot be read."""
        return self.found(name)[0]

    def found(self, name: str) -> tuple[str | None, str]:
        """Return the value, and in words where it stands; ValueError as of `get`."""
        if name in self._environ:
            return self._environ[name].strip(_ENDS), _variable(name)
        if file := self._environ.get(f"{name}_FILE"):
            return _text(Path(file), f"{name}_FILE names {file}").strip(_ENDS), f"{file}, which {name}_FILE names,"
        if folder := self._environ.get("CREDENTIALS_DIRECTORY"):
            credential = Path(folder) / name
            if credential.exists():
                return _text(credential, str(credential)).strip(_ENDS), str(credential)
        files = self._given, self._own
        for one in files:
            if name in one.values:
                return one.values[name], f"{name} in {one.path}"
        if fault := next((one.fault for one in files if one.fault is not None), None):
            raise ValueError(fault)  # the line may be the one that was meant to assign it
        return None, _variable(name)

    @cached_property
    def _own(self) -> _Assigned:
        return _assigned(self._beside) if self._beside.is_file() else _NOTHING


def _variable(name: str) -> str:
    return f"the environment variable {name}"


def wrong_key(name: str, secrets: Lookup) -> str | None:
    """Return why what a key's name stands for cannot be a key, or None. The value is not shown."""
    try:
        secret, where = secrets.found(name) if isinstance(secrets, Secrets) else (secrets.get(name), _variable(name))
    except ValueError as error:
        return str(error)
    if secret is None:
        return f"{where} is not set; export {name}=..., put it into .env, or name another"
    return None if (wrong := _wrong(secret.strip())) is None else f"{where} {wrong}"


def _wrong(secret: str) -> str | None:
    if not secret:
        return "is empty; put the key into it"
    if secret.lower().startswith("bearer"):
        return "begins with the word Bearer, which is added by itself; put the bare key into it"
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        return "holds a blank, a line end or another character that no key has; put the bare key into it"
    return None


def _text(path: Path, named: str) -> str:
    """Return a file's text; ValueError, which calls it as `named`, where that cannot be."""
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{named}, which is not text in UTF-8; write it anew") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "this is no path"
        raise ValueError(f"{named}, which cannot be read ({why}); mend it") from None


def _assigned(path: Path) -> _Assigned:
    """Return what a file of lines `NAME=value` assigns; ValueError where it cannot be read."""
    from dotenv.parser import parse_stream  # noqa: PLC0415  most runs have no such file

    lines = [*parse_stream(io.StringIO(_text(path, str(path)), newline=None))]
    fault = None
    if wrong := next((line.original for line in lines if line.error), None):
        blank = wrong.string[: -len(wrong.string.lstrip())].count("\n")  # lines in front, which count as its own
        fault = f"{path}, of which line {wrong.line + blank} is no NAME=value; mend it"
    pairs = {line.key: line.value for line in lines if line.key is not None}
    return _Assigned({name: value.strip(_ENDS) for name, value in pairs.items() if value is not None}, fault, path)
