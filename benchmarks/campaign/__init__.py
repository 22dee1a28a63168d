"""A failure campaign: a real cluster on one computer, faults from a seed, and checks that do not ask the search."""
