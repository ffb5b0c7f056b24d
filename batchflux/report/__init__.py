"""What people look at: `report.html` beside the pictures, and the page that a review serves.

One page for both: `build_page` streams it from rows (rows.py) and a header (header.py). It reads storage and nothing
else of the house.
"""
