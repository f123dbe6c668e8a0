import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mfkd.errors import CheckpointError, ConfigError
from mfkd.export.feed import KEY, Feed, batch
from mfkd.export.graphs import capture
from mfkd.export.onnx import OnnxModel, need, operators, to_half, to_int8, write_onnx


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(file, feed, network) of a small network that normalises by itself."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)]
    network = nn.Sequential(*parts)
    for _ in range(3):
        network(torch.randn(16, 3, 6, 6))
    network.eval()
    feed = Feed("net", ("a", "b", "c", "ü"), 3, (6, 6), (0.4,) * 3, (0.25,) * 3, 7, "bicubic", True)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(path, capture(network, feed), feed)
    return path, feed, network


def pixels(count=9):
    return np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)


def expected(feed, network, raw):
    floats = batch(raw, Feed(**{**feed.__dict__, "embedded": False}))
    return network(torch.from_numpy(floats)).detach().numpy()


def test_file_takes_any_batch_and_knows_its_network(written):
    path, feed, network = written
    model = OnnxModel(path)
    assert model.feed == feed
    for count in (1, 9):
        raw = pixels(count)
        assert np.allclose(model(raw), expected(feed, network, raw), atol=1e-5)
    graph = onnx.load(path).graph
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    sizes = [[size.dim_param or size.dim_value for size in shape] for shape in shapes]
    assert sizes == [["batch", 6, 6, 3], ["batch", 4]]
    assert [value.name for value in (*graph.input, *graph.output)] == ["image", "logits"]
    assert not any(node.metadata_props for node in graph.node)
    onnx.checker.check_model(str(path))


def test_half_is_smaller_and_close(written, tmp_path):
    path, feed, network = written
    to_half(path, tmp_path / "half.onnx")
    half, raw = OnnxModel(tmp_path / "half.onnx"), pixels()
    assert half.feed == feed
    reference = expected(feed, network, raw)
    assert 0 < np.abs(half(raw) - reference).max() < 5e-3 * np.ptp(reference)
    kinds = {
        tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer if len(tensor.dims) == 4
    }
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_int8_quantises_the_products_alone(written, tmp_path):
    path, feed, network = written
    raw = pixels(64)
    to_int8(path, tmp_path / "int8.onnx", iter([raw[:32], raw[32:]]))
    int8 = OnnxModel(tmp_path / "int8.onnx")
    assert int8.feed == feed
    reference = expected(feed, network, raw)
    assert 0 < np.abs(int8(raw) - reference).max() < 0.03 * np.ptp(reference)
    assert operators(tmp_path / "int8.onnx")["QuantizeLinear"] > 0
    weights = [tensor for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer if len(tensor.dims) == 4]
    assert [tensor.data_type for tensor in weights] == [onnx.TensorProto.INT8]
    scales = {tensor.name: tensor for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert list(scales[weights[0].name.replace("_quantized", "_scale")].dims) == [8]  # one a channel


def test_refusals(written, tmp_path):
    path, _, _ = written
    with pytest.raises(CheckpointError) as caught:
        OnnxModel(tmp_path / "none.onnx")
    assert str(caught.value) == f"{tmp_path / 'none.onnx'} does not exist; give a file written by mfkd export."
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"broken\.onnx is damaged or no ONNX file \(\w+\); export it again\.$"):
        OnnxModel(tmp_path / "broken.onnx")
    foreign = onnx.load(path)
    for text in (None, "{", json.dumps({"classes": 3})):
        del foreign.metadata_props[:]
        if text is not None:
            foreign.metadata_props.add(key=KEY, value=text)
        onnx.save(foreign, tmp_path / "foreign.onnx")
        with pytest.raises(CheckpointError) as caught:
            OnnxModel(tmp_path / "foreign.onnx")
        assert str(caught.value) == (
            f"{tmp_path / 'foreign.onnx'} does not tell its classes and preprocessing; "
            "give a file written by mfkd export."
        )


def test_missing_library_is_named():
    with pytest.raises(ConfigError) as caught:
        need("onnx_that_nobody_has")
    assert str(caught.value) == (
        "ONNX needs the package onnx_that_nobody_has; install it with pip install 'mfkd[onnx]'."
    )
