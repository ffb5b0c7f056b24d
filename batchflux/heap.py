"""Lets the C library keep the memory of pictures that are done with, for the next ones.

glibc gives the end of its heap back to the system when more than 128 KB of it are free, and large blocks at once. A
run that holds some pictures of 200 KB then asks for their memory anew for each, page by page: 50 faults a picture, a
quarter of all processor time on a virtual machine where a fault takes 4 microseconds. (mallopt(3); malloc/malloc.c of
glibc 2.36, `mp_.trim_threshold` and `mp_.mmap_threshold`.)
"""

from __future__ import annotations

import ctypes
import os

KEPT = 32 << 20  # bytes that are free at the end of a heap (each thread may have one) before any of them is given back
LARGE = 2 << 20  # bytes of a block that is still asked for, and given back, by itself: most pictures are smaller
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_CHOICES = ("MALLOC_", "GLIBC_TUNABLES")


def keep() -> bool:
    """Tell the C library; for the whole process. Say whether it listens: it does where it is glibc.

    Whoever has set glibc's own environment variables for this has chosen otherwise.
    """
    if any(name.startswith(_CHOICES) for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, LARGE) and library.mallopt(_TRIM_THRESHOLD, KEPT))
