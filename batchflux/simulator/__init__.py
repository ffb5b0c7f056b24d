"""The simulator: image APIs as an aiohttp server, with real pictures and faults on demand.

`Simulator` serves inside a running event loop (`batchflux simulate`), `EmbeddedSimulator` in a thread with a loop of
its own (`provider: simulator`). It has no access to the network, and to no files but its cache of uploads.
"""

from __future__ import annotations

from batchflux.simulator.faults import FAULTS
from batchflux.simulator.options import SimulatorOptions, load_options, parse_options
from batchflux.simulator.replies import SERVED
from batchflux.simulator.server import EmbeddedSimulator, Simulator

__all__ = ["FAULTS", "SERVED", "EmbeddedSimulator", "Simulator", "SimulatorOptions", "load_options", "parse_options"]
