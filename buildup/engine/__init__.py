"""The engine: replay, loop, speculation, and each command's work as functions."""
