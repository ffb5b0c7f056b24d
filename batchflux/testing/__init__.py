"""For packages that bring a provider: the suite that batchflux's own are held to, to be run by pytest over theirs.

A Way says how a manifest names the provider, a Dialect how its API answers; `class TestMine(ProviderSuite)` with both
runs everything: each picture paid once, also when the program is killed at any point; BatchSuite does so in batches.
`batchflux docs providers` shows it. ImportError names the extra that is missing.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError("batchflux.testing needs pytest; run: pip install 'batchflux[testing]'") from error
else:
    pytest.register_assert_rewrite(
        "batchflux.testing.suite", "batchflux.testing.batch_suite", "batchflux.testing.program"
    )

from batchflux.testing.bank import KEY, PRICE, Bank
from batchflux.testing.batch_suite import BatchSuite
from batchflux.testing.dialect import Accepted, Batch, BatchDialect, Dialect, Picture, Task, Told
from batchflux.testing.program import Ended, Program
from batchflux.testing.suite import ProviderSuite, Shop, Way, only

__all__ = [
    "KEY",
    "PRICE",
    "Accepted",
    "Bank",
    "Batch",
    "BatchDialect",
    "BatchSuite",
    "Dialect",
    "Ended",
    "Picture",
    "Program",
    "ProviderSuite",
    "Shop",
    "Task",
    "Told",
    "Way",
    "only",
]
