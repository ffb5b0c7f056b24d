"""OpenRouter's books: each generation by its id, which the answer gave.

Facts: https://openrouter.ai/docs/api-reference/get-a-generation, read in November 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from batchflux.charges.books import Charge, Statement
from batchflux.providers.answers.documents import asking
from batchflux.providers.answers.listed import moment_in
from batchflux.providers.answers.untrusted import told_text
from batchflux.providers.books.base import Books, amount_in

if TYPE_CHECKING:
    from batchflux.charges.books import Period
    from batchflux.models import HttpRequest, Reply
    from batchflux.providers.answers.documents import DocumentReader


class Generations(Books):
    """A line for each id that is asked for; what is left only a key of another kind may ask."""

    complete = False

    def statements(self, period: Period) -> tuple[HttpRequest, ...]:
        """Return what asks for each generation."""
        return tuple(asking(f"/v1/generation?{urlencode({'id': name})}", _generation) for name in period.receipts)

    def balance(self, period: Period) -> HttpRequest | None:
        """Return None."""
        return None


def _generation(answer: DocumentReader) -> Reply:
    """Return what one generation cost; none that is not known, or not yet."""
    told = answer.document.get("data")
    if answer.status == 404:  # noqa: PLR2004  HTTP: not found
        return Statement(charges=())
    if not answer.ok or not isinstance(told, dict):
        raise answer.failure()
    charge = Charge(
        receipt=told_text(told.get("id")),
        at=moment_in(told.get("created_at")),
        amount=amount_in(told.get("total_cost")),
        model=told_text(told.get("model")),
    )
    return Statement(charges=(charge,))
