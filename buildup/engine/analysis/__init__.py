"""Measure trained models: any model by its name, and the verdicts of a run."""
