"""Predict, interpret and design promoters with a trained model."""
