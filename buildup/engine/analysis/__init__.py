"""Measuring trained models: which model is meant, one measurement on disk, and the verdicts of a run side by side."""
