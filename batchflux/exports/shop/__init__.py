"""What a shop wants of pictures: names by product and position, JPEGs within bounds, spreadsheets, importers' files."""
