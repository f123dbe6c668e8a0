"""What the Hugging Face hub says while it fetches, kept off the terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hub_hushed() -> Iterator[None]:
    """A block in which the hub's client does not warn of each attempt; what comes of them, the caller tells."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
