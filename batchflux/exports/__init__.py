"""What a run is written out as: `results.csv` first."""
