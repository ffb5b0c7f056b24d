"""What is kept: the ledger, the images, and their projections (results.csv, summary.json, run.log)."""
