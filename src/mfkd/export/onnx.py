"""ONNX: writing, shrinking and running files; the only door to onnx and onnxruntime.

Nothing here imports torch on its own, so that a file is asked without it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mfkd.errors import CheckpointError, ConfigError
from mfkd.export.feed import KEY, Feed
from mfkd.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.export import ExportedProgram

INPUT, OUTPUT, AXIS = "image", "logits", "batch"
PRODUCTS = ["Conv", "Gemm", "MatMul"]
"""Operators that run in int8; those between them would cost accuracy, softmax and norms above all, and save no time."""


class OnnxModel:
    """An ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: written by `mfkd export`.
        threads: of one call; None takes OMP_NUM_THREADS, else what the library takes.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: no such file, a damaged one, or one that does not tell its classes.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        runtime = need("onnxruntime")
        path = Path(path).expanduser()
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; give a file written by mfkd export.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
        options.log_severity_level = 3  # errors; its hints on a graph are not the user's
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            told = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # the library's own kinds, which it does not publish
            raise CheckpointError(
                f"{path} is damaged or no ONNX file ({type(error).__name__}); export it again."
            ) from None
        try:
            self.feed = Feed.from_json(told[KEY])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(
                f"{path} does not tell its classes and preprocessing; give a file written by mfkd export."
            ) from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits (B, K) of (B, H, W, C) uint8 or, where the graph does not normalise, (B, C, H, W) float32."""
        logits: np.ndarray = self.session.run([OUTPUT], {INPUT: images})[0]
        return logits


def write_onnx(path: Path, program: "ExportedProgram", feed: Feed) -> None:
    """Write a graph as ONNX, for any batch, with `feed` in its metadata.

    Args:
        path: the file.
        program: from `graphs.capture`.
        feed: what the file says of its network.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
    """
    import torch

    for library in ("onnx", "onnxscript"):
        need(library)
    made: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT])
    _save(path, made.model_proto, feed)


def to_half(source: Path, target: Path) -> None:
    """Rewrite a float32 file with float16 weights and arithmetic; input and output stay as they are."""
    onnx = need("onnx")
    need("onnxruntime")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    write_atomic(target, lambda file: file.write(model.SerializeToString()))


def to_int8(source: Path, target: Path, batches: "Iterable[np.ndarray]") -> None:
    """Quantise the products of a float32 file to int8: weights per channel, activations by their range on some images.

    Quantise and dequantise nodes stand around each operator (QDQ), which any runtime understands.

    Args:
        source: from `write_onnx`.
        target: the new file, with the same input, output and metadata.
        batches: calibration images as the graph takes them.
    """
    need("onnxruntime")
    import logging

    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.left, None)
            return None if found is None else {INPUT: found}

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the library warns by the root logger of what is done here on purpose
    try:
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,  # twice as fast on x86 as the library's own choice
            # Seven bits: with eight, sums of two products overflow on x86 processors without VNNI.
            reduce_range=True,
            op_types_to_quantize=PRODUCTS,
        )
    finally:
        root.setLevel(level)


def operators(path: Path) -> dict[str, int]:
    """How often each operator stands in a file."""
    found: dict[str, int] = {}
    for node in need("onnx").load(path).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def _save(path: Path, model: Any, feed: Feed) -> None:
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        del part.metadata_props[:]  # where the code lay on this machine, longer than a small network
    axes = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in axes:
                size.dim_param = AXIS
    model.metadata_props.add(key=KEY, value=feed.to_json())
    write_atomic(path, lambda file: file.write(model.SerializeToString()))


def need(name: str) -> Any:
    """Import a library of the extra `onnx`; ConfigError where it is not installed."""
    from importlib import import_module

    # From 1.29 on onnxruntime reports its use to its maker unless told otherwise before it is loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(f"ONNX needs the package {name}; install it with pip install 'mfkd[onnx]'.") from None
