"""How formats write many samples into few files: in shards that are known again, with pictures read ahead."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from batchflux.exports.base import Sample

THREADS, AHEAD = 4, 8  # that read pictures; pictures that are read before their turn
_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


class Placed(NamedTuple):
    """A sample and what reads its picture."""

    sample: Sample
    image: Callable[[], bytes]


class Shards:
    """Puts samples into shards of at most so many samples and bytes, each given to `make` with its split and number.

    A shard of one picture may have more bytes. Where a shard ends follows from the samples alone.
    """

    def __init__(self, samples: int, size: int, make: Callable[[str, int, Sequence[Placed]], None]) -> None:
        self._samples, self._size, self._make = samples, size, make
        self._waiting: dict[str, list[Placed]] = {}
        self._bytes: dict[str, int] = {}
        self.made: dict[str, int] = {}

    def add(self, sample: Sample, image: Callable[[], bytes], size: int) -> None:
        """Add a sample that takes `size` bytes; one that no longer fits begins the next shard."""
        waiting = self._waiting.setdefault(sample.split, [])
        if waiting and (len(waiting) == self._samples or self._bytes[sample.split] + size > self._size):
            self._flush(sample.split)
        self._waiting[sample.split].append(Placed(sample, image))
        self._bytes[sample.split] = self._bytes.get(sample.split, 0) + size

    def close(self) -> None:
        """Make the last shards."""
        for split, waiting in self._waiting.items():
            if waiting:
                self._flush(split)

    def _flush(self, split: str) -> None:
        number = self.made.get(split, 0)
        self._make(split, number, self._waiting[split])
        self.made[split] = number + 1
        self._waiting[split], self._bytes[split] = [], 0


def recipe(rules: str, placed: Iterable[Placed]) -> str:
    """Return what a shard is known by: the digest of all that its bytes follow from, `rules` of writing among it."""
    digest = hashlib.sha256(rules.encode())
    for sample, _ in placed:
        photos = [[photo.source, photo.mark, photo.suffix] for photo in sample.references]
        of = [sample.name, sample.suffix, sample.size, sample.sha256, sample.caption, list(sample.columns.items())]
        digest.update(_json([*of, photos]).encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def read_ahead(placed: Iterable[Placed]) -> Iterator[tuple[Sample, bytes]]:
    """Yield each sample with its picture, in order; some of the next are read meanwhile."""
    waiting: deque[tuple[Sample, Future[bytes]]] = deque()
    with ThreadPoolExecutor(THREADS, "batchflux-export") as threads:
        try:
            for sample, image in placed:
                waiting.append((sample, threads.submit(image)))
                if len(waiting) > AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def line(value: Any) -> bytes:
    """Return a value as a line of JSON."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode(errors="replace")
