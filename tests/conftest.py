"""What holds for all tests: no example of hypothesis fails for being slow, for a busy machine is no fault of ours."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
