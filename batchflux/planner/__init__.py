"""What a run would do, what it would cost, and what speaks against it."""

from __future__ import annotations

from batchflux.planner.doubts import check_currency, doubt, remember_folder
from batchflux.planner.estimates import ProviderPlan
from batchflux.planner.planning import Plan, check_options, load_manifest, plan, plan_of

__all__ = [
    "Plan",
    "ProviderPlan",
    "check_currency",
    "check_options",
    "doubt",
    "load_manifest",
    "plan",
    "plan_of",
    "remember_folder",
]
