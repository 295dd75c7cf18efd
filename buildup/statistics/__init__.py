"""Whether a candidate is better."""
