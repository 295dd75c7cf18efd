"""One file a command: a request in, one answer out."""
