"""Which call style a job takes, and what that style cannot carry.

The rule: auto is standard where it can carry the whole job, chat where a local file must travel. A field that the
style has no place for is a fault that names the remedy, or is listed as dropped under `params: drop`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.models import Capabilities, Reference, Style


def local_file(references: tuple[Reference, ...]) -> str | None:
    """The first local file among the references, as the user wrote it."""
    return next((reference.source for reference in references if reference.path is not None), None)


def resolve(wanted: str, references: tuple[Reference, ...], styles: Mapping[str, Capabilities]) -> Style:
    """The style a job goes by.

    Raises:
        ValueError: the style asked for cannot carry a local file; says the remedy.
    """
    local = local_file(references) if references else None
    if wanted == "chat":
        return "chat"
    if local is None or styles["standard"].local_images:
        return "standard"
    if wanted == "auto":
        return "chat"
    remedy = "give the photo as a URL, or set style: auto"
    raise ValueError(f"style standard cannot carry the local file {local}; {remedy}")


def refusal(name: str, style: Style, wanted: str, local: str | None) -> str:
    """Why a field cannot be carried, and what to do."""
    if local is not None:
        why = f", which this job needs because {local} is a local file"
        remedy = "give the photo as a URL" if wanted == "auto" else "give the photo as a URL and set style: auto"
    elif wanted == "chat":
        why, remedy = ", which this job asks for", "set style: auto"
    else:
        why, remedy = "", f"set style: {'chat' if style == 'standard' else 'standard'}"
    return f"{name} cannot be carried by style {style}{why}; {remedy}, remove {name}, or set provider.params: drop"
