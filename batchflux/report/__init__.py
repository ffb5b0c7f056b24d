"""What people look at: `report.html` beside the pictures, and the page that a review serves.

One page for both: `build_page` (page.py) streams it from rows (rows.py) and a header (header.py), with the style and
the script of assets/ (bundle.py). Nothing here is a server.
"""
