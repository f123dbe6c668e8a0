"""The routes, as a client meets them."""

import math

import pytest
from fastapi.testclient import TestClient

from mfkd import __version__
from mfkd.serve.app import make_app
from mfkd.serve.limits import Limits
from mfkd.serve.model import open_model


@pytest.fixture(scope="module")
def client(graph):
    app = make_app(open_model(graph), Limits(size=20_000, pixels=10_000, at_once=1))
    with TestClient(app, base_url="http://localhost") as found:
        yield found


def ask(client, data, query="", name="image"):
    return client.post(f"/predict{query}", files={name: ("a.txt", data, "text/plain")})


def test_answer_by_hand(client, kit):
    """Logits are 10, 0 and 0, so that the first class has e^10 / (e^10 + 2)."""
    told = ask(client, kit.picture((255, 0, 0)))
    assert told.status_code == 200
    first, *others = told.json()["top"]
    assert first == {"label": "red", "probability": pytest.approx(math.exp(10) / (math.exp(10) + 2), rel=1e-6)}
    assert [one["probability"] for one in others] == [pytest.approx(1 / (math.exp(10) + 2), rel=1e-5)] * 2
    assert 0 < told.json()["milliseconds"] < 10_000


@pytest.mark.parametrize(("query", "count"), [("", 3), ("?top=1", 1), ("?top=2", 2), ("?top=100", 3)])
def test_as_many_classes_as_wished(client, kit, query, count):
    assert len(ask(client, kit.picture(), query).json()["top"]) == count


@pytest.mark.parametrize("top", ["0", "101", "many", "-1"])
def test_number_of_classes_has_bounds(client, kit, top):
    told = ask(client, kit.picture(), f"?top={top}")
    assert (told.status_code, told.json()) == (422, {"detail": "The number of classes, top, must be from 1 to 100."})


@pytest.mark.parametrize(
    ("data", "status", "start"),
    [
        (b"", 400, "The picture is empty"),
        (b"no picture", 415, "This is no picture of a known type"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), 422, "The picture is damaged or cut off"),
        (bytes(20_001), 413, "The picture is too large, at most 0.02 MB"),
        (bytes(99_999), 413, "The picture is too large, at most 0.02 MB"),
    ],
)
def test_refusals(client, data, status, start):
    told = ask(client, data)
    assert told.status_code == status
    assert told.json()["detail"].startswith(start)


def test_too_many_pixels(client, kit):
    told = ask(client, kit.picture(size=(101, 100)))
    assert told.status_code == 413
    assert told.json()["detail"].startswith("The picture has 101 x 100 pixels, at most 0.01 million")


def test_missing_picture_is_told_how_to_send_it(client, kit):
    missing = "The picture is missing; send it as the file image of a form (multipart/form-data)."
    for told in (
        client.post("/predict"),
        client.post("/predict", json={"image": 1}),
        client.post("/predict", data={"image": "text"}),
        ask(client, kit.picture(), name="picture"),
    ):
        assert (told.status_code, told.json()) == (422, {"detail": missing})


@pytest.mark.parametrize("body", [b"", b"--x\r\n", b"--x\r\nrubbish\r\n\r\n", b"--y--", b"\xff" * 100])
def test_broken_form_is_refused(client, body):
    told = client.post("/predict", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert told.status_code in (400, 422)
    assert set(told.json()) == {"detail"}


def test_health(client):
    assert client.get("/healthz").json() == {
        "ready": True,
        "model": "colours",
        "classes": ["red", "green", "<img src=x onerror=alert(1)>"],
        "version": __version__,
        "max_bytes": 20_000,
    }


def test_foreign_names_are_not_answered_on_this_machine(graph, client, kit):
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/healthz", headers={"host": "127.0.0.1:8000"}).status_code == 200
    assert client.get("/healthz", headers={"host": "[::1]:8000"}).status_code == 200
    with TestClient(make_app(open_model(graph), Limits(), None)) as other:
        assert other.get("/healthz", headers={"host": "my.machine"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://intranet"}, 200),  # the service's own page behind a proxy without TLS
        ({"sec-fetch-site": "same-origin", "origin": "https://a.proxy"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({}, 200),
    ],
)
def test_pages_of_other_sites_are_not_answered(graph, client, kit, headers, status):
    def told(service):
        return service.post("/predict", files={"image": kit.picture()}, headers=headers)

    assert told(client).status_code == status
    with TestClient(make_app(open_model(graph), Limits(), None), base_url="http://localhost") as other:
        assert told(other).status_code == status  # also where every machine may ask
    if status == 403:
        text = "A page of another site has sent this; open the page of the service."
        assert told(client).json() == {"detail": text}


def test_description_is_there_without_pages_that_load_scripts(client):
    told = client.get("/openapi.json").json()
    assert sorted(told["paths"]) == ["/healthz", "/predict"]
    assert {"200", "403", "413", "415", "422", "503"} <= set(told["paths"]["/predict"]["post"]["responses"])
    assert [client.get(path).status_code for path in ("/docs", "/redoc", "/predict", "/nothing")] == [
        404,
        404,
        405,
        404,
    ]
