"""The run's durable state in `ledger.db`: what was asked for, paid and received, and what is left to do."""
