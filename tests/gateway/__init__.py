"""Tests of batchflux.gateway."""
