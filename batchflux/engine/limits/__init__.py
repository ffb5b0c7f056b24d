"""When a request may leave, and with which key: the rate limiter, its keys, and what is found of their limits."""
