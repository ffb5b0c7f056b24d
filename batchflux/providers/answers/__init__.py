"""Reading what relays really answer: the bytes of one answer become a picture, or the error that explains it."""
