"""A stand-in for ingest's worker processes."""

import random

from equiav.errors import MediaError
from equiav.library.windows import work


class InProcess:
    """Does the tasks in this process, and gives their results in any order."""

    busy = property(lambda self: bool(self.held))

    def __init__(self, seed=0, do=work):
        self.held, self.random, self.do = [], random.Random(seed), do

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return

    def has_room(self):
        return len(self.held) < 3

    def submit(self, task):
        self.held.append(task)

    def wait(self):
        task = self.held.pop(self.random.randrange(len(self.held)))
        try:
            return [(task, self.do(task))]
        except MediaError as error:
            return [(task, error)]
