"""Nights: how runs are started by themselves, what comes of them beforehand, and what they were like."""
