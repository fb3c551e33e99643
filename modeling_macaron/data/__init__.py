"""Prepare tables of promoters for training."""
