"""The training loop, checkpoints, distributed runs and batched inference; knows ``models.base`` only."""
