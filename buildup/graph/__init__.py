"""What a network is, without torch."""
