"""Uploads are counted while they come, and sent away before they are read."""

import asyncio

import pytest
from fastapi import HTTPException

from mfkd.serve import admission as module
from mfkd.serve.admission import FRAME, Admission
from mfkd.serve.limits import Limits

LIMITS = Limits(size=1000, at_once=1, waiting=1, seconds=0.2)


def scope(length=None, method="POST"):
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http", "method": method, "headers": headers}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.05)


class Client:
    """Sends some chunks, then waits for ever; keeps what it is answered."""

    def __init__(self, *chunks, last=False):
        self.chunks, self.last, self.sent = list(chunks), last, []

    async def receive(self):
        if not self.chunks:
            await asyncio.sleep(60)
        chunk = self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks) or not self.last}

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"]


async def drain(scope, receive, send):
    while (await receive()).get("more_body"):
        pass


def test_told_size_is_refused_without_being_let_through():
    async def never(*_):
        raise AssertionError("it was let through")

    client = Client()
    asyncio.run(Admission(never, LIMITS)(scope(1001 + FRAME), client.receive, client.send))
    assert client.status == 413
    assert client.sent[1]["body"] == (
        b'{"detail":"The picture is too large, at most 0.001 MB are taken; scale it down."}'
    )


def test_what_a_refused_client_still_sends_is_thrown_away_after_its_answer():
    """Where the connection is closed before, the answer is lost."""
    for last in (True, False):  # False: it stops half-way, and is waited for no longer than a moment
        client = Client(*[bytes(100_000)] * 9, last=last)
        asyncio.run(Admission(drain, LIMITS)(scope(900_000), client.receive, client.send))
        assert client.chunks == []
        assert [message.get("more_body", False) for message in client.sent] == [False, True, False]
        assert client.sent[2]["body"] == b""


def test_answer_to_a_body_that_was_read_goes_as_it_is():
    client, message = Client(b"abc", last=True), {"type": "http.response.body", "body": b"ok"}

    async def app(scope, receive, send):
        await drain(scope, receive, send)
        await send(message)

    asyncio.run(Admission(app, LIMITS)(scope(3), client.receive, client.send))
    assert client.sent == [message]


def test_client_that_never_ends_is_given_up():
    class Endless(Client):
        async def receive(self):
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"x", "more_body": True}

    client = Endless()
    asyncio.run(asyncio.wait_for(Admission(drain, LIMITS)(scope(900_000), client.receive, client.send), 5))
    assert client.status == 413


def test_untold_size_is_refused_at_the_first_byte_too_many():
    client = Client(*[bytes(FRAME // 2)] * 2, bytes(1000), b"x", *[bytes(1000)] * 9)
    with pytest.raises(HTTPException) as caught:
        asyncio.run(Admission(drain, LIMITS)(scope(), client.receive, client.send))
    assert caught.value.status_code == 413
    assert len(client.chunks) == 9  # were never asked for


def test_size_at_the_limit_passes():
    client = Client(bytes(FRAME), bytes(1000), last=True)
    asyncio.run(Admission(drain, LIMITS)(scope(1000 + FRAME), client.receive, client.send))
    assert client.sent == []


def test_slow_client_is_given_up():
    admission, client = Admission(drain, LIMITS), Client(b"a")
    with pytest.raises(HTTPException) as caught:
        asyncio.run(admission(scope(), client.receive, client.send))
    assert caught.value.status_code == 408
    assert caught.value.detail == "The picture took more than 0.2 s to arrive."
    assert admission.held == 0


def test_one_request_too_many_is_told_to_come_again():
    async def scenario():
        leave = asyncio.Event()

        async def busy(*_):
            await leave.wait()

        admission = Admission(busy, LIMITS)
        inside = [asyncio.create_task(admission(scope(), None, None)) for _ in range(2)]
        await asyncio.sleep(0)
        client = Client()
        await admission(scope(10), client.receive, client.send)
        passed = asyncio.create_task(admission(scope(method="GET"), None, None))  # health is always told
        await asyncio.sleep(0)
        assert not passed.done()
        leave.set()
        await asyncio.gather(*inside, passed)
        return client, admission.held

    client, held = asyncio.run(scenario())
    assert client.status == 503
    assert (b"retry-after", b"1") in client.sent[0]["headers"]
    assert client.sent[1]["body"] == b'{"detail":"Too many pictures are waiting; try again in a second."}'
    assert held == 0
