"""What to try next, and whether to keep it."""
