"""Numbers on the way to a model: counts, alignment, splits, batches, simulation."""
