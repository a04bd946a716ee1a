"""Numbers of numbers: arrays → figures with intervals; no files, no models."""
