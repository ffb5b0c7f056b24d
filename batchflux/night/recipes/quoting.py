"""How a text is written down so that what reads it reads that text: sh, cron, systemd, YAML, Kubernetes, docker."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def sh(text: object) -> str:
    """Return it as one word of sh."""
    return shlex.quote(str(text))


def words(texts: Iterable[object]) -> str:
    """Return them as words of sh."""
    return " ".join(map(sh, texts))


def crontab(text: str) -> str:
    """Return a command as a crontab has it, where a bare % ends the line."""
    return text.replace("%", "\\%")


def unit(text: object) -> str:
    """Return it as a systemd unit has it where the whole rest of the line counts: % begins a specifier."""
    return str(text).replace("%", "%%")


def unit_word(text: object) -> str:
    """Return it as one word of a list in a systemd unit, such as Environment=."""
    doubled = unit(text)
    escaped = doubled.replace("\\", "\\\\").replace('"', '\\"')
    return doubled if _PLAIN.fullmatch(doubled) else f'"{escaped}"'


def unit_words(texts: Iterable[object]) -> str:
    """Return them as a command of a systemd unit, where $ begins a variable, but not in the program's own path."""
    program, *arguments = map(unit_word, texts)
    return " ".join([program, *(word.replace("$", "$$") for word in arguments)])


def quoted(text: object) -> str:
    """Return it as a YAML, or Python, text in double quotes."""
    return json.dumps(str(text), ensure_ascii=False)


def airflow(text: object) -> str:
    """Return it as a Python text of Airflow, where braces begin what a template fills in."""
    return quoted(f"{{% raw %}}{text}{{% endraw %}}" if "{" in str(text) else text)


def compose(text: object) -> str:
    """Return it as YAML for compose, where $ begins a variable."""
    return quoted(text).replace("$", "$$")


def kubernetes(text: object) -> str:
    """Return it as YAML for an argument in Kubernetes, where $(NAME) is a variable."""
    return quoted(str(text).replace("$(", "$$("))


def bound(path: object) -> str:
    """Return the words of docker that show a host's path at the same place; docker reads a line of CSV."""
    fields = (f"{name}={path}" for name in ("source", "target"))
    line = ["type=bind", *(f'"{field.replace(chr(34), chr(34) * 2)}"' if _in_csv(field) else field for field in fields)]
    return "--mount " + sh(",".join(line))


def _in_csv(field: str) -> bool:
    return "," in field or '"' in field


FILTERS: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (sh, words, crontab, unit, unit_word, unit_words, quoted, airflow, compose, kubernetes, bound)
}
