"""What training needs: data, collator, trainer, metrics, simulation."""
