"""Calls of APIs whose tasks have ended: verified (`api`, `signatures`), received, and passed on as wake-ups."""
