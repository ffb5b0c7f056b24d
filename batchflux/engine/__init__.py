"""The asyncio worker pool: bounded workers, limits, retries and the budget."""
