"""What a person sees while a network trains: a bar on a terminal, plain lines in a file."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate", 0.0)
        return Text(f"{rate:,.0f} img/s" if rate else "", style="progress.data.speed")


class Display:
    """Shows one training; silent on all processes but the first.

    Args:
        title: such as "student distilled, seed 0".
        active: False on further processes.
    """

    def __init__(self, title: str, active: bool = True) -> None:
        self.title, self.active = title, active
        self.console = Console(file=sys.stderr, soft_wrap=True)
        self.bar: Progress | None = None
        if active and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task(title, total=None, state="", rate=0.0)
        self._begun, self._images = time.perf_counter(), 0

    def __enter__(self) -> "Display":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, total: int, done: int) -> None:
        """Training begins, or goes on after so many of its updates."""
        self._begun = time.perf_counter()
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, state="")

    def step(self, images: int) -> None:
        """One update of so many images was done."""
        self._images += images
        if self.bar is not None:
            rate = self._images / max(1e-9, time.perf_counter() - self._begun)
            self.bar.update(self.task, advance=1, rate=rate)

    def state(self, text: str) -> None:
        """Show loss and accuracy on the bar."""
        if self.bar is not None:
            self.bar.update(self.task, state=text)

    def prepared(self, name: str, done: int, total: int) -> None:
        """A method's stage before training has done so many updates."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total or None, state=name)

    def tell(self, text: str) -> None:
        """A line on the first process, on a terminal too."""
        if self.active:
            self.console.print(f"{self.title}: {text}", highlight=False, markup=False)

    def epoch(self, text: str) -> None:
        """One line an epoch, where there is no terminal."""
        if self.active and self.bar is None:
            self.console.print(f"{self.title}: {text}", highlight=False, markup=False)


def epoch_line(row: dict[str, float], epochs: int, images: int, split: str = "test") -> str:
    """A row of the log as a sentence; `images` were trained on in the epoch, `split` was measured on."""
    parts = [f"epoch {row['epoch']:g}/{epochs}", f"loss {row['loss']:.3f}"]
    for name, told in (("train", "train"), ("test", split)):
        if f"{name}_top1" in row:
            parts.append(f"{told} Top-1 {row[f'{name}_top1']:.2f}%")
    return ", ".join([*parts, f"{images / max(1e-9, row['seconds']):,.0f} images/s", f"{row['seconds']:.1f} s"])
