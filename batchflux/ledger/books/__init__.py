"""Further tables of the ledger: what it is compared with its providers' books by, and what is in a bucket."""
