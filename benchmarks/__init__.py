"""Measurements of speed, memory and equality; each run writes one JSON file into `results/`."""
