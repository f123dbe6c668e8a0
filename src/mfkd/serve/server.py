"""A listening socket, and the server on it until a signal ends it."""

import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mfkd.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 1024
GRACE = 10  # seconds that requests may take to end
POOL = "predict"  # how the names of the threads begin that predict


def need() -> None:
    """Refuse where the extra `serve` is not installed.

    Raises:
        ConfigError: fastapi, uvicorn or python-multipart is missing.
    """
    from importlib.util import find_spec

    for module, package in {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}.items():
        if find_spec(module) is None:
            raise ConfigError(f"mfkd serve needs the package {package}; install it with pip install 'mfkd[serve]'.")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; clients that come before the server wait.

    Args:
        host: an address of this machine, or a name of one.
        port: 0 takes any that is free.

    Raises:
        ConfigError: the port is in use or not allowed, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _refused(host, port, error) from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left may be taken again
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        raise _refused(host, port, error) from None
    return found


def is_local(listening: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address(listening: socket.socket) -> str:
    """Of a socket, for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: "FastAPI", listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are being answered are answered first, within `GRACE` seconds."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    with _signals_end_quietly():
        uvicorn.Server(config).run(sockets=[listening])


def leave() -> None:
    """End the process where a prediction is still at work: nobody waits for it, but Python would."""
    for thread in threading.enumerate():
        if thread.name.startswith(POOL):
            thread.join(0.2)  # one that has nothing to do is about to end
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)


def serving(file: Path, model: str, classes: int, listening: socket.socket) -> list[str]:
    """What to tell whoever has started it."""
    told = [f"{model}, {classes} classes, from {file}", f"Serving at {address(listening)} - stop it with Ctrl-C."]
    if not is_local(listening):
        told.append("Warning: whoever reaches this address may ask; there is no authentication and no encryption.")
    return told


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Uvicorn ends in order and then raises its signal once more; for a service that is the usual end, not a fault."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refused(host: str, port: int, error: OSError) -> ConfigError:
    import errno

    if error.errno == errno.EADDRINUSE:
        why = f"port {port} of {host} is in use; choose another with --port, or any free one with --port 0."
    elif error.errno == errno.EACCES:
        why = f"port {port} of {host} is not allowed; choose one above 1023 with --port."
    else:
        why = f"{host} is no address of this machine ({error.strerror}); give one with --host, such as 127.0.0.1."
    return ConfigError(why)
