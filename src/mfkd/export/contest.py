"""Networks side by side: time at batch 1 and more, memory and size, in PyTorch and in ONNX Runtime."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mfkd.config import load_config
from mfkd.errors import CheckpointError, MfkdError
from mfkd.export.feed import Feed
from mfkd.export.latency import ROUNDS, interleaved
from mfkd.export.onnx import OnnxModel, need, write_onnx
from mfkd.train.student import NAMES, Card, read_card, weights_file

MEGA = 1e6


@dataclass(frozen=True)
class Contender:
    """A network in one runtime; plain values, so that a fresh process can open it as well.

    Args:
        name: for people.
        runtime: "PyTorch" or "ONNX Runtime".
        file: weights or graph; None builds `model` with random weights.
        model: name for `build_model`, where there is no file.
        classes: of its head.
        shape: of one image as the network takes it.
        options: of `build_model`.
        named_by: the file that names `model`; None: the user.
    """

    name: str
    runtime: str
    file: Path | None
    shape: tuple[int, int, int]
    model: str = ""
    classes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    named_by: Path | None = None

    def open(self) -> Any:
        """The network itself: a module in eval mode, or an `OnnxModel`."""
        if self.runtime == "ONNX Runtime":
            import torch

            return OnnxModel(str(self.file), torch.get_num_threads())
        from mfkd.models import build_model
        from mfkd.models.trust import named_by
        from mfkd.train.student import load_student

        if self.file is not None:
            return load_student(self.file)
        options = {name: value for name, value in self.options.items() if name != "pretrained"}
        with nullcontext() if self.named_by is None else named_by(self.named_by):
            return build_model(self.model, self.classes, self.shape[0], **options).eval()

    def call(self, network: Any, batch: int) -> Callable[[], object]:
        """What answers one batch."""
        import numpy as np
        import torch

        if self.runtime == "ONNX Runtime":
            raw = np.zeros((batch, *self.shape), np.uint8 if network.feed.embedded else np.float32)
            return lambda: network(raw)
        images = torch.zeros(batch, *self.shape)

        @torch.no_grad()
        def answer() -> object:
            return network(images)

        return answer


def contest(
    words: Sequence[str],
    *,
    batches: Sequence[int] = (1, 64),
    rounds: int = ROUNDS,
    seconds: float = 20.0,
    classes: int = 100,
    shape: tuple[int, int, int] = (3, 32, 32),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure networks on the CPU, all in turns.

    Args:
        words: run folders (teacher and student), export folders, weights files, ONNX files, network names.
        batches: images a call.
        rounds: calls of each, see `latency.interleaved`.
        seconds: budget a batch size, likewise.
        classes: of a network that is only named.
        shape: (C, H, W) of its images.
        say: gets a line a step, and a note where a network cannot be measured in one of the runtimes.

    Returns:
        `rows`, one a network and runtime: name, runtime, megabytes (of the file), peak_megabytes (memory that a
        fresh process takes to load it and answer the largest batch; None where the system does not tell) and by
        batch the fields of `latency.Timing`; besides threads, processor, batches and notes.
    """
    import torch

    from mfkd.records import environment

    notes: list[str] = []
    with TemporaryDirectory() as place:
        found: list[Contender] = []
        for contender in _named(words, classes, shape):
            found.append(contender)
            if contender.runtime == "PyTorch" and not _exported(contender):
                say(f"Writing {contender.name} as ONNX")
                try:
                    found.append(_as_onnx(contender, Path(place) / f"{len(found)}.onnx"))
                except MfkdError as error:
                    notes.append(f"{contender.name} is left out in ONNX Runtime: {error}")
        networks = [contender.open() for contender in found]
        times = {}
        for batch in batches:
            say(f"Timing {len(found)} at batch {batch}")
            calls = {str(number): one.call(networks[number], batch) for number, one in enumerate(found)}
            times[batch] = interleaved(calls, batch, rounds, seconds)
        say("Measuring memory, each in a process of its own")
        rows = [
            {
                "name": one.name,
                "runtime": one.runtime,
                "megabytes": _bytes(one, networks[number]) / MEGA,
                "peak_megabytes": _peak_of(one, max(batches)),
                "batches": {str(batch): asdict(times[batch][str(number)]) for batch in batches},
            }
            for number, one in enumerate(found)
        ]
    return {
        "rows": rows,
        "batches": list(batches),
        "threads": torch.get_num_threads(),
        "processor": environment("cpu")["processor"],
        "notes": notes,
    }


def peak(contender: Contender, batch: int) -> int | None:
    """Bytes that this process needs beyond its libraries to load a network and answer one batch."""
    import torch  # before the first reading, as what it takes is not the network's

    if contender.runtime == "ONNX Runtime":
        need("onnxruntime")
    else:
        torch.nn.Linear(1, 1)(torch.zeros(1, 1))
    before = _memory("VmRSS")
    contender.call(contender.open(), batch)()
    after = _memory("VmHWM")
    return None if before is None or after is None else max(0, after - before)


def _named(words: Sequence[str], classes: int, shape: tuple[int, int, int]) -> Iterator[Contender]:
    for word in words:
        path = Path(word).expanduser()
        if path.suffix == ".onnx":
            yield Contender(word, "ONNX Runtime", path, OnnxModel(path).feed.shape)
        elif path.is_dir() and any((path / name).is_file() for name in NAMES):
            yield from _folder(path)
        elif path.is_file() and not word.endswith(".py"):
            yield _trained(word, path)
        elif path.is_dir():
            weights_file(path)  # refuses
        else:
            yield Contender(word, "PyTorch", None, shape, word, classes)


def _folder(path: Path) -> Iterator[Contender]:
    """Of a run the teacher and the student; of an export every form."""
    student = weights_file(path)
    card = _card(student)
    teacher = path / "teacher" / "teacher.safetensors"
    if teacher.is_file():
        yield _trained(f"{path} teacher", teacher)
    elif (path / "config.yaml").is_file():
        told = load_config(path / "config.yaml").teacher
        side = told.image_size or card.size[0]
        yield Contender(
            f"{path} teacher",
            "PyTorch",
            None,
            (card.channels, side, side if told.image_size else card.size[1]),
            told.model,
            told.classes or len(card.classes),
            told.options,
            path / "config.yaml",
        )
    yield _trained(f"{path} student" if path / "student.safetensors" == student else str(path), student)
    for graph in sorted(path.glob("*.onnx")):
        yield Contender(f"{path} {graph.name}", "ONNX Runtime", graph, OnnxModel(graph).feed.shape)


def _trained(name: str, file: Path) -> Contender:
    card = _card(file)
    return Contender(name, "PyTorch", file, (card.channels, *card.size), card.model, len(card.classes))


def _card(file: Path) -> Card:
    card = read_card(file)
    if card is None:
        raise CheckpointError(f"{file} does not tell which network it is; give a run folder or a file written by mfkd.")
    return card


def _exported(contender: Contender) -> bool:
    return contender.file is not None and (contender.file.parent / "model.onnx").is_file()


def _as_onnx(contender: Contender, path: Path) -> Contender:
    from mfkd.export.graphs import capture

    channels, height, width = contender.shape
    blank = (0.0,) * channels, (1.0,) * channels
    feed = Feed(contender.model, ("",) * contender.classes, channels, (height, width), *blank)
    write_onnx(path, capture(contender.open(), feed), feed)
    return replace(contender, runtime="ONNX Runtime", file=path)


def _bytes(contender: Contender, network: Any) -> int:
    if contender.file is not None:
        return contender.file.stat().st_size
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _peak_of(contender: Contender, batch: int) -> float | None:
    """A fresh process, since memory that was ever used is not given back in full."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(peak, contender, batch).result()
    return None if found is None else found / MEGA


def _memory(entry: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")), None)
