"""Recipes: what makes a scheduler run a manifest every night, and understand how a run ends.

Each is one or several files, made from templates beside this module. They agree in two things: a stop gives calls that
are under way the time to end, for they are paid; and the exit codes mean to the platform what they mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from batchflux.errors import UsageError
from batchflux.night.recipes.quoting import FILTERS

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.night.recipes.night import Night

RECIPES = {  # platform → its files: template → name
    "cron": {"cron.sh": "{slug}.sh", "crontab": "crontab"},
    "systemd": {
        "systemd.service": "{slug}.service",
        "systemd.timer": "{slug}.timer",
        "systemd-failed.service": "batchflux-failed@.service",
    },
    "docker": {"Dockerfile": "Dockerfile", "docker.sh": "{slug}.sh"},
    "compose": {"Dockerfile": "Dockerfile", "compose.yaml": "compose.yaml"},
    "kubernetes": {"kubernetes.yaml": "{slug}.yaml"},
    "actions": {"actions.yml": ".github/workflows/{slug}.yml"},
    "airflow": {"airflow.py": "{slug}.py"},
}


def files_of(platform: str, night: Night, place: Path) -> dict[str, str]:
    """Return the files of a recipe by their names, as they are when they lie in the folder `place`.

    Raises UsageError: a path has a line end or another character in it that no recipe could say.
    """
    for text in (night.name, *night.command, *night.program, str(night.work), str(night.key_folder), str(place)):
        if not text.isprintable():
            raise UsageError(f"{text!r} has a character in it that no recipe can say: rename it.")
    loader = PackageLoader("batchflux.night.recipes", "templates")
    made = Environment(  # noqa: S701  what it makes is no HTML
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    made.filters.update(FILTERS)
    names = {template: name.format(slug=night.slug) for template, name in RECIPES[platform].items()}
    return {
        name: made.get_template(f"{template}.j2").render(night=night, place=place, file=name)
        for template, name in names.items()
    }
