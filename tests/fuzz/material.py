"""What the fuzz tests have in common: how cases are drawn, what is done to values and bytes, and what is allowed."""

import copy
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mfkd.errors import MfkdError

SECONDS = 60  # no case may take longer, on a busy machine either
LONGEST = 3000  # characters of a refusal

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**62, 2**63, -(2**63), 2**64, 10**30, 10**400, 1e308, -0.0, 5e-324]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "~", "../..", "/dev/zero", "\0", "a\nb", "🦊", "\uff11", "nan", "0x10", "x" * 5000, "\u202e"]
    ),
)
KEYS = st.text(max_size=8)
SHALLOW = st.one_of(SCALARS, st.lists(SCALARS, max_size=4), st.dictionaries(KEYS, SCALARS, max_size=4))
# Two levels by hand: with `st.recursive` Hypothesis finds its own draws inconsistent after some thousand cases.
JUNK = st.one_of(SCALARS, st.lists(SHALLOW, max_size=3), st.dictionaries(KEYS, SHALLOW, max_size=3))


def cases(count: int) -> settings:
    """So many cases, the same ones each time."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


class Hang(BaseException):
    """No `except Exception` may take it for something else."""


@contextmanager
def refusals_only() -> Iterator[None]:
    """A block may succeed or refuse; any other exception, a long text or a long time is a fault."""

    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except MfkdError as error:
        assert 0 < len(str(error)) <= LONGEST
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def places(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every container in a nested value with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def damaged(draw, value, junk=JUNK, most=3):
    """A nested value in which something is replaced, left out, renamed, added or moved."""
    # All draws come first and are the same ones whatever the value is: Hypothesis finds draws that follow the
    # value inconsistent after some thousand cases.
    fresh = draw(st.lists(junk, min_size=1, max_size=most))
    names = draw(st.lists(KEYS, min_size=len(fresh), max_size=len(fresh)))
    chance = random.Random(draw(st.integers(0, 2**32)))
    value = copy.deepcopy(value)
    for new, name in zip(fresh, names, strict=True):
        found = list(places(value))
        if not found:
            return new
        inside, key = chance.choice(found)
        action = chance.choice(["replace", "replace", "remove", "add", "move"])
        if action == "replace":
            inside[key] = new
        elif action == "remove":
            del inside[key]
        elif action == "move":
            other, place = chance.choice(found)
            inside[key] = copy.deepcopy(other[place]) if _there(other, place) else None
        elif isinstance(inside, dict):
            inside[name] = new
        else:
            inside.insert(0, new)
    return value


def _there(inside, key) -> bool:
    return key in inside if isinstance(inside, dict) else key < len(inside)


@st.composite
def broken(draw, content: bytes):
    """Bytes that are flipped, cut, doubled or overwritten."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        action = draw(st.sampled_from(["flip", "flip", "cut", "overwrite", "insert", "drop"]))
        at = draw(st.one_of(st.integers(0, len(content)), st.integers(0, min(300, len(content)))))
        if draw(st.booleans()):
            at = len(content) - at  # both ends are where the tables lie
        if action == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif action == "cut":
            del content[at:]
        elif action == "overwrite":
            new = draw(st.one_of(st.binary(max_size=16), st.just(b"\xff" * 8), st.just(b"\0" * 64)))
            content[at : at + len(new)] = new
        elif action == "insert":
            content[at:at] = draw(st.binary(max_size=40))
        else:
            del content[at : at + draw(st.integers(1, 64))]
    return bytes(content)
