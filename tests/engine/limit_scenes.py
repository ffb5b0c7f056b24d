"""The servers of `limit_servers` as scenes: how much there is to do there, and what is asked of a client.

A scene's jobs last a client that knows the rule so many seconds. Told, ours is at most 1.05 times as long and one
window, and nothing is refused; untold 1.15 times over twenty minutes and 1.3 over five, with a twentieth refused over
twenty minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.engine.limit_clients import Client, ours
from tests.engine.limit_servers import Both, Bucket, Chance, Model, Overload, Sliding, Slots, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.limit_clients import Seen

TOLD, UNTOLD, UNTOLD_SHORT, REFUSED, LONG = 1.05, 1.15, 1.3, 0.05, 1200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One server. `pace` is how many answers a second can be had; `rate` (requests, in seconds) or `active` what a
    client is told, who is told; `jobs` replaces what fills the time; `fixed` may be refused by chance."""

    name: str
    model: Callable[[], Model]
    pace: float
    rate: tuple[float, float] | None = None
    active: int | None = None
    jobs: int | None = None
    slots: int = 64
    fixed: bool = False

    def client(self, seconds: float, *, told: bool = False, seed: int = 1) -> Client:
        """Who has to do what lasts so many seconds."""
        slots = (told and self.active) or self.slots
        return Client(
            jobs=self.jobs or int(seconds * self.pace), slots=slots, rate=self.rate if told else None, seed=seed
        )

    def ours(self, seconds: float, *, told: bool = False, seed: int = 1) -> Seen:
        """Run the engine there."""
        return self.client(seconds, told=told, seed=seed).run(ours, self.model())

    def ideal(self, client: Client) -> float:
        """The makespan of who knows the rule."""
        return self.model().ideal(client.jobs, client.slots)

    def mark(self, ideal: float, *, told: bool, long: bool) -> float:
        """The longest makespan that is well enough, in seconds."""
        if self.fixed:
            return 1.1 * ideal
        if told:
            return self.told_mark(ideal)
        return (UNTOLD if long else UNTOLD_SHORT) * ideal

    def told_mark(self, ideal: float) -> float:
        """The longest makespan that is asked of who is told: 1.05 times the ideal, and one window of the rate."""
        return TOLD * ideal + (self.rate or (0, 0))[1]


def _chance(share: float, wait: float | None = None) -> Scene:
    told = "" if wait is None else f", Retry-After {wait:g}"
    return Scene(
        name=f"429 at random, {share:.0%}{told}",
        model=lambda: Chance(share=share, wait=wait, seconds=5.0),
        pace=64 / 5 * (1 - share),
        rate=(20.0, 1.0),
        fixed=True,
    )


SCENES = (
    Scene(name="bucket 20/s, a second's burst", model=lambda: Bucket(rate=20, size=20), pace=20, rate=(20.0, 1.0)),
    Scene(name="60 in each minute", model=lambda: Window(count=60, span=60), pace=1, rate=(60.0, 60.0)),
    Scene(
        name="60 in each minute, Retry-After",
        model=lambda: Window(count=60, span=60, tells=True),
        pace=1,
        rate=(60.0, 60.0),
    ),
    Scene(name="60 in each 10 s", model=lambda: Window(count=60, span=10), pace=6, rate=(60.0, 10.0)),
    Scene(name="100 in any 10 s", model=lambda: Sliding(count=100, span=10), pace=10, rate=(100.0, 10.0)),
    Scene(name="24 active, 5 s each", model=lambda: Slots(most=24, seconds=5.0), pace=4.8, active=24),
    Scene(name="24 active, Retry-After 1", model=lambda: Slots(most=24, seconds=5.0, wait=1.0), pace=4.8, active=24),
    Scene(
        name="24 active and 5/s",
        model=lambda: Both(seconds=5.0, first=Slots(most=24, seconds=5.0), second=Bucket(rate=5, size=5, seconds=5.0)),
        pace=4.8,
        rate=(5.0, 1.0),
        active=24,
    ),
    _chance(0.05),
    _chance(0.1),
    _chance(0.2),
    _chance(0.3),
    _chance(0.4),
    _chance(0.05, 2.0),
    _chance(0.1, 5.0),
    _chance(0.4, 5.0),
    Scene(name="overload: slower, then 503", model=lambda: Overload(knee=16, seconds=3.0), pace=5.3, active=16),
    Scene(name="no limit", model=lambda: Model(seconds=5.0), pace=12.8),
    Scene(
        name="24 jobs of 8 s, 24 slots",
        model=lambda: Model(seconds=8.0, spread=0.0),
        pace=3,
        jobs=24,
        slots=24,
    ),
)
BY_NAME = {scene.name: scene for scene in SCENES}
