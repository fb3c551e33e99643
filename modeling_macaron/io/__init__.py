"""Read and write tables."""
