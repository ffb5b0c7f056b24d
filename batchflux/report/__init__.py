"""What people look at: `report.html` beside the pictures, and the page that a review serves; one page for both."""
