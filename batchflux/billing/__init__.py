"""Compares a folder's attempts with the provider's own books, by API or from an exported table; changes nothing."""
