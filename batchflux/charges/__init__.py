"""What a provider's own books say, and which of it belongs to which attempt: plain data, without I/O."""
