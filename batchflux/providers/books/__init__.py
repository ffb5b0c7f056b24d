"""The books of APIs: what they say themselves that they billed; `base` says what they are, a module each reads one."""
