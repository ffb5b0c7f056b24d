"""What is told of a run while nobody looks at it: notices to others, and metrics."""
