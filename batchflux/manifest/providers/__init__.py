"""The providers that a manifest names: which API each speaks, and whether it can carry a job."""
