"""What stands in for the decoder: importable in its process."""

import time

from equiav.serve.decoding import decode


def hang(task):
    """Sleep for ever on all but WAV files, which the service warms up with."""
    if task.path.read_bytes()[:4] != b"RIFF":
        time.sleep(3600)
    return decode(task)


def slow(task):
    time.sleep(0.5)
    return decode(task)


def broken(task):
    raise RuntimeError(f"no good: {task.path}")
