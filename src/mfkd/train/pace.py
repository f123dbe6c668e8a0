"""When a training is written down within an epoch, and when it stops: every process decides alike."""

import time

import torch
from accelerate import Accelerator

from mfkd.config import CheckpointConfig
from mfkd.train.interrupt import Interrupt

AGREE_EVERY = {"cpu": 5}
AGREE_ELSEWHERE = 50
"""Updates between agreements of several processes; one of accelerators waits for the device."""


class Pace:
    """Asked after every update.

    Args:
        config: how often to write.
        interrupt: of this process.
        accelerator: from `runtime.start`.
        alone: True where this process works while the others wait, so that there is nobody to agree with.

    Attributes:
        due: whether to write a checkpoint now.
        signum: the signal by which to stop now; 0 for none.
    """

    def __init__(
        self, config: CheckpointConfig, interrupt: Interrupt, accelerator: Accelerator, alone: bool = False
    ) -> None:
        self.config, self.interrupt = config, interrupt
        self.device, self.several = accelerator.device, accelerator.num_processes > 1 and not alone
        self.every = AGREE_EVERY.get(self.device.type, AGREE_ELSEWHERE) if self.several else 1
        self.due, self._signum = False, 0
        self._written = time.monotonic()

    @property
    def signum(self) -> int:
        """What all processes know of by now."""
        return self._signum if self.several else self._own()

    def look(self, done: int, last: bool) -> None:
        """After an update, on every process.

        Args:
            done: updates since the run began.
            last: whether the epoch or the training ends here, where all processes look.
        """
        minutes, steps = self.config.every_minutes, self.config.every_steps
        self.due = steps is not None and done % steps == 0
        if last or done % self.every == 0:
            late = minutes is not None and time.monotonic() - self._written > 60 * minutes
            self._signum, late = self._agreed(self._own(), late)
            self.due = self.due or late

    def written(self) -> None:
        """A checkpoint is on the disk."""
        self.due, self._written = False, time.monotonic()

    def _own(self) -> int:
        return self.interrupt.signum if self.interrupt.pending else 0

    def _agreed(self, signum: int, late: bool) -> tuple[int, bool]:
        """The largest of all processes' answers."""
        if not self.several:
            return signum, late
        answers = torch.tensor([signum, late], dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(answers, torch.distributed.ReduceOp.MAX)
        return int(answers[0]), bool(answers[1])
