"""How the nodes of a YAML tree are read and checked, and what is said of those that are wrong."""
