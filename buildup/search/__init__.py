"""Where thinking meets training."""
