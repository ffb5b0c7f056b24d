"""How a connection is made: guarded, by a proxy or directly, and read by a patient parser."""
