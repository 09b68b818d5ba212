"""The benchmark runner: what to run (cells), running it once (runner, worker), and tables."""
