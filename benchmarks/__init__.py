"""Benchmarks of speed, memory and numerical equality. Each run writes a JSON file into `results/`."""
