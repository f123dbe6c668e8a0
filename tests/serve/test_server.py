"""The process that is really started."""

import asyncio
import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from mfkd.errors import ConfigError
from mfkd.serve import server
from mfkd.serve.server import address, is_local, listen, need, serving


def test_two_hundred_at_once(running, kit):
    bodies = [kit.picture(colour, (64, 48)) for colour in ((255, 0, 0), (0, 255, 0))]

    async def all_of_them():
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=running.url, limits=limits, timeout=60) as client:
            return await asyncio.gather(
                *(client.post("/predict?top=1", files={"image": bodies[number % 2]}) for number in range(200))
            )

    told = asyncio.run(all_of_them())
    assert {one.status_code for one in told} <= {200, 503}
    answered = [(number, one) for number, one in enumerate(told) if one.status_code == 200]
    assert len(answered) > 150
    assert all(one.json()["top"][0]["label"] == ("red", "green")[number % 2] for number, one in answered)
    assert httpx2.get(f"{running.url}/healthz").json()["ready"]


def test_at_once_beyond_the_queue_are_refused_or_answered(graph, kit, tmp_path):
    picture = kit.picture(size=(1500, 1500))  # takes a while to decode

    async def all_of_them(url):
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(client.post("/predict", files={"image": picture}) for _ in range(20)))

    with kit.service(graph, tmp_path / "log", "--at-once", "1", "--waiting", "2") as found:
        told = asyncio.run(all_of_them(found.url))
        assert httpx2.post(f"{found.url}/predict", files={"image": picture}).status_code == 200
    codes = [one.status_code for one in told]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 3
    assert all(one.headers["retry-after"] == "1" for one in told if one.status_code == 503)
    assert (tmp_path / "log").read_text().splitlines()[2:] == ["Stopped."]


def test_refused_while_reading(running):
    """A client that would send a gigabyte has its answer after the first eleven megabytes."""
    host, port = running.url.removeprefix("http://").split(":")
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        for _ in range(11):
            connection.sendall(b"%x\r\n%s\r\n" % (1_000_000, bytes(1_000_000)))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("after", ["close", "keep-alive"])
def test_client_that_reads_only_after_sending_has_its_answer(running, kit, after):
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=20)
    form = {"Content-Type": "multipart/form-data; boundary=x", "Connection": after}
    connection.request("POST", "/predict", bytes(30_000_000), form)
    with connection.getresponse() as told:
        assert told.status == 413
        assert told.read().startswith(b'{"detail":"The picture is too large')
    connection.close()


def test_client_that_goes_away_leaves_no_trace(running, kit):
    """The log is looked at when the service ends."""
    host, port = running.url.removeprefix("http://").split(":")
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    for length, sent in ((500, b"--x\r\n"), (500, b""), (0, b"")):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % length + sent)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        connection.settimeout(10)
        assert b" 400 " in connection.recv(1000)
    time.sleep(0.3)
    assert httpx2.post(f"{running.url}/predict", files={"image": kit.picture()}).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order_and_nothing_is_left(graph, kit, tmp_path, monkeypatch, number):
    """On the disk, that is: neither pictures nor what onnxruntime keeps to report its use by."""
    place = tmp_path / "place"
    place.mkdir()
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(place))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)  # set by this process on its own behalf
    with kit.service(graph, tmp_path / "log") as found:
        big = kit.picture(size=(1200, 1200), kind="BMP")  # 4 MB, so that it goes through a file
        assert httpx2.post(f"{found.url}/predict", files={"image": big}).status_code == 200
        connection = http.client.HTTPConnection(found.url.removeprefix("http://"))
        connection.request("GET", "/healthz")  # stays open
        connection.getresponse().read()
        found.process.send_signal(number)
        assert found.process.wait(20) == 0
        connection.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == f"colours, 3 classes, from {graph}"
    assert re.fullmatch(r"Serving at http://127\.0\.0\.1:\d+ - stop it with Ctrl-C\.", lines[1])
    assert lines[2:] == ["Stopped."]
    assert list(place.rglob("*")) == []


SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from mfkd.export.feed import Feed
from mfkd.serve import server
from mfkd.serve.app import make_app
from mfkd.serve.limits import Limits
from mfkd.serve.model import Served

def logits(images):
    print("asked", flush=True)
    time.sleep(60)

server.GRACE = 0.5
listening = server.listen("127.0.0.1", 0)
print(server.address(listening), flush=True)
feed = Feed("n", ("a", "b"), 1, (8, 8), (0.0,), (1.0,))
server.run(make_app(Served(Path("x"), feed, logits), Limits(at_once=1)), listening)
print("ended", flush=True)
server.leave()
"""


def test_prediction_that_does_not_end_is_left_behind(kit):
    words = [sys.executable, "-c", SLOW]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(httpx2.post, f"{url}/predict", files={"image": kit.picture()}, timeout=30)
            assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            told = asked.result()
        assert process.stdout.read() == "ended\n"
        assert "Traceback" not in process.stderr.read()
    assert (told.status_code, told.json()) == (503, {"detail": "The service is being stopped."})


def test_port_in_use_is_one_line(graph, running):
    port = running.url.rpartition(":")[2]
    command = [sys.executable, "-m", "mfkd", "serve", str(graph), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"mfkd: error: port {port} of 127.0.0.1 is in use; choose another with --port, or any free one with --port 0.\n"
    )


def test_addresses_that_are_none():
    with pytest.raises(ConfigError, match=r"^192\.0\.2\.1 is no address of this machine \(.*\); give one with --host,"):
        listen("192.0.2.1", 0)
    with pytest.raises(ConfigError, match=r"^no\.such\.host\.invalid is no address of this machine"):
        listen("no.such.host.invalid", 0)


def test_only_loopback_goes_without_a_warning(tmp_path):
    with listen("127.0.0.1", 0) as found:
        assert is_local(found)
        assert serving(tmp_path, "n", 2, found)[1:] == [f"Serving at {address(found)} - stop it with Ctrl-C."]
    with listen("0.0.0.0", 0) as found:
        assert not is_local(found)
        assert serving(tmp_path, "n", 2, found)[2] == (
            "Warning: whoever reaches this address may ask; there is no authentication and no encryption."
        )


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(ConfigError) as caught:
        need()
    assert str(caught.value) == "mfkd serve needs the package uvicorn; install it with pip install 'mfkd[serve]'."
    assert server.GRACE == 10
