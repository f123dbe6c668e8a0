"""A runner for the cells of a bench that needs no other process."""

from mfkd.bench.cell import attempt


class Here:
    """Runs cells in this process, one at a time, as they are started."""

    slots = 1

    def __init__(self, jobs=1):
        self.started, self.over = [], {}

    def start(self, cell):
        self.started.append(cell.key)
        if not attempt(cell):
            raise KeyboardInterrupt
        self.over[cell.key] = ""

    def ended(self, patience):
        over, self.over = self.over, {}
        return over

    def stop(self):
        pass
