"""What a plan says of reference photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.cli.terminal import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.planner import Plan

MB = 1_000_000
STEPS = {
    "upright": "turned upright",
    "rgb": "colours to RGB",
    "eight_bit": "16 bit to 8",
    "still": "first picture of several",
    "format": "format converted",
    "scaled": "scaled to max_side",
    "smaller": "made smaller for max_bytes",
    "flattened": "flattened",
    "stripped": "metadata stripped",
}  # by photos.steps.Step


def photo_lines(plan: Plan) -> Iterator[str]:
    """Yield how many local photos there are, what is done before they are sent, and which references cannot be sent."""
    photos = plan.photos
    if photos.get("photos"):
        broken = f"; {photos['broken']:,} cannot be sent" if photos["broken"] else ""
        yield f"  photos    {photos['photos']:>9,}  local, {photos['bytes'] / MB:,.1f} MB{broken}"
        if photos["prepared"]:
            done = ", ".join(f"{STEPS[name]} {number:,}" for name, number in photos["prepared"].items())
            yield f"            sent as copies: {done}"
            yield "            (JPEG at quality 95, PNG and WEBP without loss; originals stay)"
        if photos["large"]:
            yield f"            {photos['large']:,} over 20 megapixels or 10 MB, more than some APIs take;"
            yield "            references: {max_side: 2048} sends them smaller"
    if photos.get("in_buckets"):
        yield f"  photos    {photos['in_buckets']:>9,}  in buckets; a run looks at them, a plan does not"
    if plan.publish is not None and plan.publish["photos"]:
        put, size = plan.publish, plan.publish["bytes"] / MB
        yield f"  publish   {put['photos']:>9,}  to be put below {put['to']}, {size:,.1f} MB, each once for ever"
    if plan.unreadable:
        yield ""
        yield f"{count(plan.unreadable, 'job')} will fail, because a reference cannot be read:"
        yield from (f"  {sample}" for sample in plan.unreadable_samples)
