"""Where a run is kept: its folder, its Optuna study, its storages."""
