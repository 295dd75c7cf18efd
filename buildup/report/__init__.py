"""History to text and pictures."""
