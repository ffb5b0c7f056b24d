"""What is done with whole output folders: two joined into a third, unlisted pictures set aside."""
