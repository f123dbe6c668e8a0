"""A network of three classes whose answers can be worked out by hand, and the service around it."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from PIL import Image

from mfkd.export.feed import KEY, Feed

CLASSES = ("red", "green", "<img src=x onerror=alert(1)>")


@pytest.fixture(scope="session")
def graph(tmp_path_factory):
    """An ONNX file whose logits are ten times the mean of each colour, on the scale 0..1."""
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.zeros((3, 64, 3), np.float32)
    for channel in range(3):
        weight[channel, :, channel] = 10 / 64
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", float32, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", float32, ["batch", 3])],
        [onnx.numpy_helper.from_array(weight.reshape(192, 3), "weight")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    feed = Feed("colours", CLASSES, 3, (8, 8), (0.0,) * 3, (1.0,) * 3)
    model.metadata_props.add(key=KEY, value=feed.to_json())
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(model, path)
    return path


def picture(colour=(255, 0, 0), size=(8, 8), kind="PNG", **options):
    """An encoded picture of one colour."""
    with io.BytesIO() as file:
        Image.new("RGB", size, colour).save(file, kind, **options)
        return file.getvalue()


@contextmanager
def service(model, log, *words):
    """`mfkd serve` in a process of its own, at a free port; gives its address and the process."""
    command = [sys.executable, "-m", "mfkd", "serve", str(model), "--port", "0", *words]
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while "Serving at " not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.05)
            url = log.read_text().split("Serving at ")[1].split()[0]
            yield SimpleNamespace(url=url, process=process, log=log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(20)


@pytest.fixture
def kit():
    """The functions above, as tests import nothing from here."""
    return SimpleNamespace(picture=picture, service=service)


@pytest.fixture(scope="session")
def running(graph, tmp_path_factory):
    """One service for all tests of this folder; whatever they send, it must not have failed."""
    log = tmp_path_factory.mktemp("service") / "log"
    with service(graph, log) as found:
        yield found
        assert httpx2.get(f"{found.url}/healthz").json()["ready"]
    assert log.read_text().splitlines()[2:] == ["Stopped."]
    assert found.process.returncode == 0
