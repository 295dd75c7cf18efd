"""The words that rules and trainings share."""
