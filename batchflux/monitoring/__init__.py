"""What is seen of a run from afar: notices of what happens, metrics for Prometheus, and the names of log fields."""
