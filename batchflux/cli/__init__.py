"""The command line: it parses, calls and prints."""

from __future__ import annotations

import ctypes
import io
import sys
from importlib import import_module
from traceback import format_tb

import click

from batchflux.cli.terminal import fill_in, printing, say

BUG = 70  # EX_SOFTWARE of sysexits.h
_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
COMMANDS = {  # command → the module that has it, and what the list of commands says
    "init": ("init", "Write a starter manifest, or one for a table or a folder of photos."),
    "plan": ("manifest", "Check a manifest and show what running it would do and cost; spends nothing."),
    "rehearse": ("rehearse", "Rehearse a run on a clock that jumps: when it ends, what it spends; sends nothing."),
    "run": ("run", "Run a manifest, or continue it."),
    "status": ("folder", "Show how an output folder stands, also while a run goes on."),
    "history": ("nights", "Compare the runs of output folders: what each made, cost and waited for."),
    "report": ("folder", "Write report.html: all pictures of an output folder in one page."),
    "review": (
        "serving",
        "Look at the pictures of an output folder in the browser and judge them, also while a run goes on.",
    ),
    "export": (
        "export",
        "Write the pictures of an output folder as a dataset (imagefolder, webdataset, Parquet, pairs), or for a shop.",
    ),
    "export-review": ("folder", "Write a manifest of what a review asked to redo."),
    "merge": ("folder", "Join two output folders into a third; pays for nothing."),
    "reconcile": ("books", "Compare an output folder's attempts with the provider's own books; changes nothing."),
    "prune": ("folder", "List pictures of jobs that are no longer listed, and set them aside."),
    "recipe": ("recipe", "Print what runs a manifest every night: cron, systemd, docker, kubernetes and others."),
    "gateway": ("shells.gateway", "Serve OpenAI's images and chat API over a manifest's providers, for chat shells."),
    "comfyui": ("shells.comfyui", "Put the nodes for ComfyUI into it, which make pictures through a gateway."),
    "simulate": ("serving", "Serve the simulated image API on a port, for any client."),
    "gateway-key": (
        "shells.gateway_key",
        "Make a key for a client of the gateway, with a budget and a rate of its own.",
    ),
    "schema": ("init", "Print the manifest's JSON Schema, for editors."),
    "docs": ("manual", "Print the manual: the manifest's keys, errors, columns, limits, guarantees and more."),
    "completion": ("manual", "Print what makes a shell complete commands, options and files."),
}


class LazyGroup(click.Group):
    """A group that imports a command's file when the command is called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            from difflib import get_close_matches  # noqa: PLC0415  not needed when all is right

            close = get_close_matches(cmd_name.lower(), COMMANDS, n=1)
            if cmd_name.lower().endswith((".yaml", ".yml")):
                close = [f"batchflux run {cmd_name}"]
            meant = f" Did you mean {close[0]}?" if close else ""
            ctx.fail(f"No such command '{cmd_name}'.{meant}")
        found = import_module(f"batchflux.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(found, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchflux", message="batchflux %(version)s")
def cli() -> None:
    """Run batches of image jobs against paid APIs: every image once, never paid twice.

    Start with: batchflux init && batchflux run batchflux.yaml

    Exit codes: 0 every job done, 1 finished but some jobs failed, 2 usage or manifest fault (nothing spent),
    3 stopped before the end (run again to continue), 4 another process runs the folder, 130/143 stopped by a signal,
    70 ended by a bug (run again to continue).
    """


def main() -> None:
    """Entry point: a failure that batchflux foresees is one sentence on stderr and its exit code."""
    if sys.platform == "win32":
        click.echo("batchflux runs on Linux and macOS; on Windows install and run it in WSL.", err=True)
        sys.exit(2)
    fill_in()
    _share_arena()
    says, code = "", None
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(file=shown)
        says, code = shown.getvalue().removesuffix("\n"), error.exit_code
    except click.Abort:
        says, code = "Stopped.", 130
    except Exception as error:  # noqa: BLE001  said, and the exit code tells
        says, code = _explained(error)
    if says:
        say(says, err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _share_arena() -> None:
    """Let all threads take memory from one arena of glibc's, where that is the C library; see mallopt(3).

    Pictures go from thread to thread, and with an arena for each the memory that one has freed is not the next one's.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_ARENA_MAX, 1)


def _explained(error: Exception) -> tuple[str, int]:
    """Return what to say of an error that ended a command, and its exit code."""
    from batchflux.errors import BatchfluxError  # noqa: PLC0415  not needed to print help

    if isinstance(error, BatchfluxError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and printing(error):
        return f"The output cannot be printed ({error.strerror}): free space, or send it elsewhere.", 1
    frames = "".join(format_tb(error.__traceback__))  # a message, or a value, may hold a secret
    remedy = "what was paid for is on record, so run again to continue, and report the lines above"
    return f"{frames}{type(error).__name__}: batchflux ended by a bug of its own; {remedy}.", BUG
