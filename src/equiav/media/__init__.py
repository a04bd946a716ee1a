"""Media files: what they hold, their sound, their frames."""
