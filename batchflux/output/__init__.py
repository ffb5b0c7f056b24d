"""The output folder: its lock and small files, and pictures that are verified before they are put in place."""
