"""Compiling the networks of a training by `torch.compile`, where it pays."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mfkd.config import TrainConfig
from mfkd.distill import Distiller
from mfkd.errors import TrainingError
from mfkd.taps.reader import Tapped
from mfkd.types import Outputs

LEAST = 500  # updates; in a shorter run not even the measurement pays
MARGIN = 3.0  # times the estimated compile time that must be saved before it is tried
FASTER = 0.97  # of the time of the network as it is, from which the compiled one is kept
REPEATS = 5

# Share of a network's time that compiling saves, and seconds that it takes for each layer with weights. cpu: resnet56
# and resnet20 at batch 64 in bf16 with 2 threads (the convolutions stay oneDNN's own, so a student gains next to
# nothing); cuda: assumed. These decide whether it is tried; what is measured then decides whether it is kept.
SAVED = {("cpu", "teacher"): 0.2, ("cpu", "student"): 0.01, ("cuda", "teacher"): 0.3, ("cuda", "student"): 0.2}
SECONDS = {("cpu", "teacher"): 0.4, ("cpu", "student"): 1.2, ("cuda", "teacher"): 0.3, ("cuda", "student"): 0.6}


@dataclass
class Compiled:
    """Which networks run compiled.

    Args:
        names: "student", "teacher"; of several teachers "teacher1" and so on.
        notes: what could not be compiled, for the record.
    """

    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tapped: list[Tapped] = field(default_factory=list, repr=False)
    undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Let all networks run as they are again, without hooks."""
        for tapped in self.tapped:
            tapped.remove()
        for undo in self.undo:
            undo()
        self.tapped, self.undo = [], []


@dataclass
class _Part:
    """A network that may be compiled: with its taps, on images as it will get them."""

    name: str
    kind: str
    image: Tensor
    trained: bool
    eager: Callable[[Tensor], Any]
    make: Callable[[], Tapped]
    put: Callable[[Callable[[Tensor], Any] | None], None]
    network: nn.Module


def compile_networks(
    distiller: Distiller,
    training: TrainConfig,
    *,
    batch: int,
    steps: int,
    known: list[str] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]],
    agree: Callable[[bool], bool] = bool,
) -> Compiled:
    """Compile student and teacher as `train.compile` says; weights, statistics and random state stay.

    `auto` measures the network as it is, tries what should repay its compile time within the run, and keeps what
    is measured to be faster.

    Args:
        distiller: on its device, in its mode, with a live teacher `quicken`ed.
        training: its `compile`, precision and memory layout.
        batch: images that a network gets at once.
        steps: updates that are left.
        known: what an earlier start of this very run decided, which is done again.
        autocast: context in which the networks run.
        agree: whether all processes say yes.

    Raises:
        TrainingError: `compile` is true and a network cannot be compiled.
    """
    done = Compiled()
    if training.compile is False or known == []:
        return done
    for part in _parts(distiller, training, batch):
        forced = training.compile is True or (known is not None and part.name in known)
        if known is not None and not forced:
            continue
        with _untouched(part), autocast():
            if not forced and not agree(steps >= LEAST and _worth(part, steps)):
                continue
            tapped = part.make()
            function = _compiled(tapped)
            fault = _fault(part, function)
            works = agree(not fault)
            kept = works and (forced or agree(_faster(part, function)))
        if kept:
            part.put(function)
            done.names.append(part.name)
            done.tapped.append(tapped)
            done.undo.append(partial(part.put, None))
            continue
        tapped.remove()
        if not works:
            reason = f"the {part.name} cannot be compiled here ({fault or 'another process cannot'})"
            if training.compile is True:
                raise TrainingError(
                    f"train.compile=true: {reason}; install a C++ compiler if that is what is missing, "
                    "or set train.compile=auto."
                )
            done.notes.append(f"Not compiled: {reason}.")
    return done


def _parts(distiller: Distiller, training: TrainConfig, batch: int) -> Iterator[_Part]:
    layout = torch.channels_last if training.channels_last else torch.contiguous_format
    like = next(distiller.student.parameters())

    def images(shape: tuple[int, int, int]) -> Tensor:
        drawn = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        return drawn.to(like.device, like.dtype).contiguous(memory_format=layout)

    def put(function: Callable[[Tensor], Any] | None) -> None:
        distiller.tapped = None if function is None else lambda image: Outputs(*function(image))

    student, specs = distiller.student, distiller.student_taps
    yield _Part(
        "student", "student", images(distiller.input_shape), True, distiller.outputs,
        lambda: Tapped(student, specs), put, student,
    )  # fmt: skip
    teachers = [] if distiller.teacher is None else distiller.teacher.parts()
    for number, teacher in enumerate(teachers, 1):
        quick = teacher.quick
        if quick is not None:
            yield _Part(
                f"teacher{number}" if len(teachers) > 1 else "teacher", "teacher", images(quick.input_shape), False,
                quick, partial(Tapped, quick.network, quick.specs, logits=quick.logits),
                partial(setattr, quick, "compiled"), quick.network,
            )  # fmt: skip


def _compiled(tapped: Tapped) -> Callable[[Tensor], Any]:
    function = torch.compile(tapped, dynamic=False, fullgraph=True)

    def call(image: Tensor) -> Any:
        tapped.reader.raw.clear()  # what an evaluation in between has left would start another compilation
        return function(image)

    return call


def _run(part: _Part, function: Callable[[Tensor], Any]) -> float:
    """Seconds of a pass: forward and backward of what is trained, else forward."""
    begun = time.perf_counter()
    with torch.set_grad_enabled(part.trained):
        answer = function(part.image)
        if part.trained:
            logits, taps = (answer.logits, answer.taps) if isinstance(answer, Outputs) else answer
            torch.stack([tensor.float().mean() for tensor in (logits, *taps.values())]).sum().backward()
    if part.image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _worth(part: _Part, steps: int) -> bool:
    """Whether compiling should repay itself, by the time of the network as it is."""
    seconds = min(_run(part, part.eager) for _ in range(3))
    key = ("cuda" if part.image.is_cuda else "cpu", part.kind)
    layers = sum(any(True for _ in m.parameters(recurse=False)) for m in part.network.modules())
    return SAVED[key] * seconds * steps > MARGIN * SECONDS[key] * layers


def _fault(part: _Part, function: Callable[[Tensor], Any]) -> str:
    """What is wrong with a compiled network, "" if it runs."""
    try:
        # A training compiles each network once, but a process may train many.
        with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=64):
            warnings.simplefilter("ignore")
            for _ in range(2):
                _run(part, function)
    except Exception as error:  # dynamo, inductor and the compiler behind it raise many kinds
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}".removesuffix(": ").rstrip(".")
    return ""


def _faster(part: _Part, function: Callable[[Tensor], Any]) -> bool:
    pairs = [(_run(part, function), _run(part, part.eager)) for _ in range(REPEATS)]
    return statistics.median(compiled / eager for compiled, eager in pairs) < FASTER


@contextmanager
def _untouched(part: _Part) -> Iterator[None]:
    """A block after which statistics, gradients and random state are as before."""
    kept = [(buffer, buffer.clone()) for buffer in part.network.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in kept:
                    buffer.copy_(before)
            for parameter in part.network.parameters():
                parameter.grad = None
