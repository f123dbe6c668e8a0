"""`mfkd export`: a folder with every form of a trained network, whole and proved, or not there at all."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mfkd.errors import ConfigError, MfkdError
from mfkd.export.answers import Form, calibration, graph_form, logits, raw_batches, torch_form
from mfkd.export.card import readme
from mfkd.export.code import alone
from mfkd.export.feed import Feed, batch
from mfkd.export.graphs import capture, save_program
from mfkd.export.latency import interleaved
from mfkd.export.layout import feed_of, is_timm, write_network
from mfkd.export.licences import shown
from mfkd.export.onnx import OnnxModel, need, to_half, to_int8, write_onnx
from mfkd.export.opened import Opened, open_trained
from mfkd.export.parity import TOLERANCE, compare, require
from mfkd.export.place import RESULT, filled
from mfkd.files import sha256, write_json, write_text
from mfkd.models import build_model
from mfkd.records import RunRecord, environment
from mfkd.sections import split_name
from mfkd.train.cost import size
from mfkd.train.student import load_student, located

ONNX, INT8, FP16, PT2 = "model.onnx", "model.int8.onnx", "model.fp16.onnx", "model.pt2"


@dataclass(frozen=True)
class Wishes:
    """What an export shall hold beside its usual files.

    Args:
        embed: graphs take raw pixels, (B, H, W, C) uint8, and normalise by themselves.
        int8: also an ONNX file of int8 weights and activations.
        fp16: also an ONNX and a safetensors file in float16.
        max_drop: points of Top-1 that either may lose.
    """

    embed: bool = False
    int8: bool = False
    fp16: bool = False
    max_drop: float = 0.5


def export_run(
    path: str | Path,
    out: str | Path | None = None,
    wishes: Wishes = Wishes(),
    *,
    force: bool = False,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write a trained network in every form, and prove on the whole test split that all say the same.

    Args:
        path: a run folder, the folder of one of its trainings, or a weights file in either.
        out: the new folder; None: `export` in the folder of the weights file.
        wishes: what it shall hold.
        force: replace an earlier export there.
        overrides: other data, such as `data.name=folder:PATH`; the classes must be the network's.
        say: gets a line a step.

    Returns:
        What `export.json` holds, and `folder`.

    Raises:
        MfkdError: a network that cannot be exported, a form that says something else, a smaller form that loses
            too much, or SIGTERM; nothing is left behind.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        need(library)
    opened = open_trained(path, overrides)
    folder = Path(out).expanduser() if out is not None else opened.file.parent / "export"
    with filled(folder, force) as part:
        result = _fill(part, opened, wishes, say)
    return {**result, "folder": str(folder)}


def _fill(folder: Path, opened: Opened, wishes: Wishes, say: Callable[[str], None]) -> dict[str, Any]:
    card, network = replace(opened.card, model=located(opened.file, opened.card.model)), opened.network
    timm = is_timm(network, card)
    say(f"Writing {card.model}: weights, graph, ONNX")
    written = write_network(folder, network, card, half=wishes.fp16)
    feed = feed_of(written, wishes.embed)
    program = capture(network, feed)
    save_program(folder / PT2, program)
    write_onnx(folder / ONNX, program, feed)
    images = opened.data.test
    split = split_name(opened.config.data.evaluate)
    say(f"Comparing all forms on {len(images):,} {split} images")
    threads = torch.get_num_threads()
    onnx = OnnxModel(folder / ONNX, threads)
    forms: dict[str, Form] = {
        "PyTorch": torch_form(network, feed),
        ONNX: graph_form(onnx, feed),
        PT2: graph_form(_program(folder / PT2), feed),
        "load_student": torch_form(_again(folder, written.model), feed),
    }
    if timm:
        again = build_model(f"local-dir:{folder.absolute()}", None, card.channels, pretrained=True)
        forms["timm local-dir"] = torch_form(again.eval(), feed)
    if wishes.fp16:
        to_half(folder / ONNX, folder / FP16)
    if wishes.int8:
        say("Quantising to int8 on training images")
        to_int8(folder / ONNX, folder / INT8, (batch(raw, feed) for raw in calibration(opened)))
    smaller = {name: OnnxModel(folder / name, threads) for name in (FP16, INT8) if (folder / name).exists()}
    everything = forms | {name: graph_form(model, feed) for name, model in smaller.items()}
    answers = logits(everything, raw_batches(opened, images), say)
    reference = answers["PyTorch"]
    parity = {name: compare(reference, answers[name]) for name in forms if name != "PyTorch"}
    for name, found in parity.items():
        require(found, name, written.model, split)
    labels = images.labels.numpy()
    graphs = {ONNX: onnx, **smaller}
    times = _times(torch_form(network, feed), graphs, feed)
    told = {name: {**_accuracy(answers[name], reference, labels), "ms": times[name].ms} for name in graphs}
    for name in smaller:
        _check_drop(name, told[name]["drop"], wishes.max_drop, told[ONNX]["top1"], told[name]["top1"])
    record = _record(folder, opened)
    around = environment("cpu")
    versions = {name: version(name) for name in ("mfkd", "torch", "onnx", "onnxscript", "onnxruntime")}
    result: dict[str, Any] = {
        "model": written.model,
        "timm": timm,
        "embedded": feed.embedded,
        "data": shown(opened.config.data.name),
        "split": opened.config.data.evaluate,
        "images": len(labels),
        "top1": told[ONNX]["top1"],
        "ci95": told[ONNX]["ci95"],
        "seeds": _seeds(opened, record),
        "tolerance": TOLERANCE,
        "parity": {name: asdict(found) for name, found in parity.items()},
        "forms": told,
        "torch_ms": times["PyTorch"].ms,
        "calls": times[ONNX].calls,
        "threads": threads,
        "processor": around["processor"],
        **size(network, (feed.channels, *feed.size)),
        "code": sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py")),
        "versions": versions,
        "environment": around,
    }
    result["files"] = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_text(folder / "README.md", readme(result, feed, opened.config, record))
    write_json(folder / RESULT, result)
    return result


def _again(folder: Path, model: str) -> nn.Module:
    """The network as it is built where nothing but its export is there."""
    try:
        with alone(folder):
            return load_student(folder)
    except ConfigError as error:
        raise MfkdError(
            f"{model} cannot be built from its export alone: {error} What it imports must lie beside it or in its "
            "package, or be installed."
        ) from None


def _program(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    module = torch.export.load(path).module()

    @torch.no_grad()
    def answer(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = module(torch.from_numpy(images)).numpy()
        return found

    return answer


def _times(network: Form, graphs: dict[str, OnnxModel], feed: Feed) -> dict[str, Any]:
    """Batch 1, with as many threads everywhere."""
    raw = np.zeros((1, *feed.size, feed.channels), np.uint8)
    fed = batch(raw, feed)
    calls: dict[str, Callable[[], object]] = {"PyTorch": partial(network, raw)}
    for name, graph in graphs.items():
        calls[name] = partial(graph, fed)
    return interleaved(calls, 1)


def _accuracy(found: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Top-1 with its interval, points lost beside the reference, and share of equal predictions."""
    from scipy.stats import binomtest

    predicted, before = found.argmax(1), reference.argmax(1)
    hits = int((predicted == labels).sum())
    interval = binomtest(hits, len(labels)).proportion_ci(0.95, "wilson")
    return {
        "top1": 100 * hits / len(labels),
        "ci95": [100 * float(interval.low), 100 * float(interval.high)],
        "drop": 100 * (int((before == labels).sum()) - hits) / len(labels),
        "agreement": 100 * float((predicted == before).mean()),
    }


def _check_drop(name: str, drop: float, allowed: float, before: float, after: float) -> None:
    if drop > allowed:
        raise MfkdError(
            f"{name} loses {drop:.2f} points of Top-1 ({before:.2f} to {after:.2f} %), allowed {allowed:g}; nothing "
            f"was written. Raise --max-drop, or leave out --{'int8' if name == INT8 else 'fp16'}."
        )


def _record(folder: Path, opened: Opened) -> RunRecord | None:
    """The record of the training, copied; None where there is none."""
    found = opened.record_file
    if found is None:
        return None
    shutil.copyfile(found, folder / "record.json")
    return RunRecord.load(found)


def _seeds(opened: Opened, record: RunRecord | None) -> dict[str, Any] | None:
    """Top-1 of all seeds of the run, where it has several."""
    if record is None or record.kind == "teacher":
        return None
    files = sorted((opened.root / record.kind).glob("seed-*/record.json"))
    found = [RunRecord.load(file).metrics["top1"] for file in files]
    if len(found) < 2:
        return None
    return {"mean": float(np.mean(found)), "std": float(np.std(found, ddof=1)), "n": len(found)}
