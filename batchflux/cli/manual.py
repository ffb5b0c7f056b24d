"""What helps at the keyboard: `batchflux docs` and `batchflux completion`."""

from __future__ import annotations

import shutil
import sys

import click
from click.shell_completion import get_completion_class

from batchflux.docs import TOPICS, page
from batchflux.docs.screen import fitted
from batchflux.errors import UsageError

_WIDEST = 100  # columns
SHELLS = {  # where each shell reads what it is to complete
    "bash": 'eval "$(batchflux completion bash)"     # in ~/.bashrc',
    "zsh": 'eval "$(batchflux completion zsh)"      # in ~/.zshrc, behind compinit',
    "fish": "batchflux completion fish | source      # in ~/.config/fish/config.fish",
}


def _begun(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(begun)]


@click.command("docs")
@click.argument("topic", required=False, shell_complete=_begun)
def docs(topic: str | None) -> None:
    """Print the page of the manual about TOPIC, or the list of topics.

    It is Markdown; on a terminal its lines are as long as that is wide.
    """
    if topic is None:
        listed = click.HelpFormatter(width=_width())
        listed.write("batchflux docs TOPIC\n")
        with listed.indentation():
            listed.write_dl([*TOPICS.items()])
        click.echo(listed.getvalue(), nl=False)
        return
    click.echo(fitted(page(topic), _width()) if sys.stdout.isatty() else page(topic), nl=False)


def _width() -> int:
    """Return how wide the terminal is, and no more than is read with ease."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


@click.command("completion", epilog="\b\n" + "\n".join(SHELLS.values()))
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete the commands, options and files of batchflux."""
    made = get_completion_class(shell)
    if made is None:
        raise UsageError(f"Nothing is known of the shell {shell}.")
    root = ctx.find_root()
    click.echo(made(root.command, {}, "batchflux", "_BATCHFLUX_COMPLETE").source())
