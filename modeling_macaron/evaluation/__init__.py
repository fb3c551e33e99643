"""Scores on measured promoters."""
