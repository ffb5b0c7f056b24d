"""What a folder is compared with its providers' own books by."""
