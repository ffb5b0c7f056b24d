"""Object stores: buckets by their addresses, each kind of them in one module."""
