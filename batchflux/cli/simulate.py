"""`batchflux simulate`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from batchflux.simulator import Simulator, SimulatorOptions, load_options, parse_options


@click.command("simulate")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--faults",
    "faults_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML or JSON with latency, rate, faults, ...: the same keys as provider.options.",
)
def command(host: str, port: int, faults_file: Path | None) -> None:
    """Serve the simulated image API, both call styles, until Ctrl-C. Its base URL is printed to stdout."""
    options = load_options(faults_file) if faults_file is not None else parse_options({})
    asyncio.run(_serve(options, host, port))


async def _serve(options: SimulatorOptions, host: str, port: int) -> None:
    simulator = Simulator(options)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    url = await simulator.start(host, port)
    click.echo(url)
    click.echo(f"Simulated image API at {url}: any key will do. Stop with Ctrl-C.", err=True)
    try:
        await stopped.wait()
    finally:
        await simulator.stop()
