"""`batchflux recipe`: what makes a scheduler run a manifest every night."""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from batchflux._version import __version__
from batchflux.cli.init import write_new
from batchflux.cli.manifest import loading
from batchflux.cli.run import run
from batchflux.errors import UsageError
from batchflux.night.recipes import RECIPES, files_of
from batchflux.night.recipes.night import (
    Asked,
    Night,
    clock,
    extras_of,
    grace_of,
    keys_of,
    owner_of,
    program,
    until_of,
    zone_of,
)
from batchflux.output.file_systems import shaky_locks
from batchflux.redaction import without_signatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.manifest import Manifest

NAMED = ("out", "env_file")  # options of `run` that the recipe says itself, with whole paths
SECRET = ("notify",)  # those whose values are secrets, and so are names of variables here
SCRIPT = 0o755
_NAMED = re.compile(r"\$\{(\w+)\}")


def _time_of_day(_context: click.Context, _parameter: click.Parameter, said: str) -> tuple[int, int]:
    try:
        return clock(said)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says of a night beside the manifest."""

    at: tuple[int, int]
    zone: str | None
    user: str | None
    image: str
    keys: Path


@click.command("recipe", context_settings={"ignore_unknown_options": True})
@click.argument("platform", type=click.Choice(list(RECIPES)))
@click.argument("given", metavar="MANIFEST", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--at", metavar="HH:MM", callback=_time_of_day, default="22:00", show_default=True, help="When the night begins."
)
@click.option("--zone", metavar="NAME", help="In which time zone, as Asia/Shanghai; else this machine's.")
@click.option("--user", metavar="NAME", help="Who runs it; else you.")
@click.option("--image", metavar="NAME", default=f"batchflux:{__version__}", show_default=True, help="The container's.")
@click.option(
    "--keys",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default="/etc/batchflux",
    show_default=True,
    help="A folder with a file for each key, named like it; for keys that are in no --env-file or .env.",
)
@click.option("--write", metavar="DIR", type=click.Path(path_type=Path), help="Write the files to DIR, over none.")
def recipe(platform: str, given: tuple[str, ...], write: Path | None, **wanted: Any) -> None:
    """Print what runs MANIFEST every night on PLATFORM, with the stop that calls need and what exit codes mean there.

    All options of `batchflux run` may stand here, too, and are said to it. Run this where the manifest is to be run:
    paths, user, program and time zone are taken from here. `batchflux docs recipes` tells more of each.
    """
    night = night_of(given, Wanted(**wanted))
    place = Path.cwd() if write is None else write.absolute()
    files = files_of(platform, night, place)
    if (doubt := shaky_locks(night.out)) is not None:
        click.echo(doubt, err=True)
    for name, text in files.items():
        if write is not None:
            _write(place / name, text)
        elif len(files) > 1:
            click.echo(f"# ===== {name}\n{text}")
        else:
            click.echo(text, nl=False)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{file.parent} cannot be made ({error.strerror}): name another place.") from None
    write_new(file, text)
    if file.suffix == ".sh":
        file.chmod(SCRIPT)
    click.echo(f"Wrote {file}", err=True)


def night_of(given: tuple[str, ...], wanted: Wanted) -> Night:
    """Return the night of what `run` is given: a manifest, and options of its own."""
    context = run.make_context("batchflux run", [*given])
    if context.params["path"] == "-":
        raise UsageError("A recipe needs a manifest that lies in a file: name it in place of -.")
    asked = Asked(os.environ.items())
    words = tuple(_words(context))
    manifest: Manifest = loading({**context.params})(environ=asked)
    extras = extras_of("\n".join([manifest.text, *words]))
    named = [*asked.names, *_NAMED.findall(" ".join(words))]
    keys = keys_of(manifest, named, extras)
    user = wanted.user or getpass.getuser()
    here = manifest.secrets({})
    return Night(
        name=manifest.name,
        manifest=manifest.path,
        work=Path.cwd(),
        out=manifest.output.dir,
        env_file=None if manifest.env_file is None else manifest.env_file.absolute(),
        given=words,
        program=program(),
        keys=keys,
        filed=tuple(name for name in keys if here.get(name) is None),
        key_folder=wanted.keys.absolute(),
        grace=grace_of(manifest),
        again=manifest.limits.budget_per_run is None,
        at=wanted.at,
        until=until_of(manifest.limits.deadline, wanted.at),
        zone=zone_of(wanted.zone),
        user=user,
        owner=owner_of(user),
        image=wanted.image,
        extras=extras,
        mirrored=manifest.output.mirror is not None,
        version=__version__,
    )


def _words(context: click.Context) -> Iterator[str]:
    """Yield the options that were given, but for those in NAMED, as words."""
    for option in context.command.params:
        name, value = str(option.name), context.params.get(str(option.name))
        if not isinstance(option, click.Option) or name in NAMED:
            continue
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        for one in map(str, value if isinstance(value, tuple) else (value,)):
            if without_signatures(one) != one or (name in SECRET and not _NAMED.search(one)):
                say = "put it into a variable and write ${NAME} here"
                raise UsageError(f"{option.opts[0]} holds a secret, which no recipe may show: {say}.")
            yield from [option.opts[0]] if option.is_flag else [option.opts[0], one]
