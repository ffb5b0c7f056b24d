"""Decodes one picture over and over on some threads for some seconds; prints how many a second.

Run as `python .bench/pillow_rate.py PICTURE THREADS SECONDS`.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

from PIL import Image


def rate(data: bytes, threads: int, seconds: float) -> float:
    """Return the pictures a second."""
    counts = [0] * threads
    until = time.monotonic() + seconds

    def work(index: int) -> None:
        while time.monotonic() < until:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
                picture.load()
            counts[index] += 1

    began = time.monotonic()
    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - began)


if __name__ == "__main__":
    path, threads, seconds = sys.argv[1:]
    sys.stdout.write(f"{rate(Path(path).read_bytes(), int(threads), float(seconds)):.2f}\n")
