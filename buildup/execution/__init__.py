"""Who trains: the evaluator protocol, Ray Tune workers, and a simulation."""
