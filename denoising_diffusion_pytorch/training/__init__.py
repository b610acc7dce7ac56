"""The training loop of both stages and everything that belongs to it."""
