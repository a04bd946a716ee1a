"""Losses, optimiser, the one training loop and what runs on it."""
