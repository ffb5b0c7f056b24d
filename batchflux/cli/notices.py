"""Who `--notify` names, and what they are told when no run comes about: a night whose manifest broke is heard of."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchflux.cli.terminal import say
from batchflux.manifest.reading.notify import targets_in, targets_of
from batchflux.monitoring.notices import notices_of
from batchflux.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchflux.manifest.reading.targets import NoticeTarget

_NAMED = re.compile(r"(?:[a-z]+=)?\$\{\w+\}")  # nothing but the name of a variable, and so no secret


@contextmanager
def heard(notify: Sequence[str]) -> Iterator[tuple[NoticeTarget, ...]]:
    """Give those whom `--notify` names; tell them, and whom the manifest names, of what ends this. UsageError."""
    given = click.get_current_context().params
    path, env_file = Path(given["path"]), given["env_file"]
    targets: tuple[NoticeTarget, ...] = ()
    secrets: Secrets | None = None
    try:
        secrets = Secrets(os.environ, path.absolute().parent, None if env_file is None else Path(env_file))
        targets = targets_of(notify, secrets)
        yield targets
    except click.ClickException:
        raise
    except Exception as error:
        known = () if secrets is None or str(path) == "-" else targets_in(path, secrets)
        asyncio.run(_tell(error, dict.fromkeys((*known, *targets)), path.stem))
        raise


async def _tell(error: Exception, targets: dict[NoticeTarget, None], name: str) -> None:
    notices = notices_of([*targets], os.environ, name=name, folder="")
    notices.event = _say
    if notices.fault is not None:
        say(str(notices.fault), err=True)
    with suppress(type(error)):
        async with notices.telling():
            raise error


def _say(name: str, /, **fields: Any) -> None:
    if name == "notices_failed":
        say(str(fields["message"]), err=True)


def again(given: Sequence[str]) -> list[str]:
    """Return the options of a command that continues; an address that was written out is not printed."""
    return [word for text in given if _NAMED.fullmatch(text) for word in ("--notify", text)]
