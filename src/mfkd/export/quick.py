"""A short way from the shell to `classify`: the command line's own libraries take as long to load as ONNX Runtime."""

import json
import sys
from collections.abc import Sequence
from getopt import GetoptError, gnu_getopt
from io import TextIOWrapper
from typing import NamedTuple

UNREAD = 1  # exit code where some images could not be read
OPTIONS = ("--model", "--top", "--json")


class Question(NamedTuple):
    """The words of `mfkd predict`: images, a model, how many classes to name, and whether as JSON."""

    images: list[str]
    model: str
    top: int = 5
    as_json: bool = False


def predict(words: Sequence[str]) -> bool:
    """Do what `mfkd predict WORDS` does, if that is a plain question to an export.

    Args:
        words: what follows `predict`.

    Returns:
        False, with nothing done, where it is something else: another kind of model, a call for help, words that the
        whole command line will refuse.

    Raises:
        MfkdError: see `classify`.
        SystemExit: with code 1, once all is told, where some images could not be read.
    """
    asked = understood(words)
    if asked is None:
        return False
    from mfkd.export.classify import classify, graph_of, listed, sorted_out

    file = graph_of(asked.model)
    if file is None:
        return False
    found = classify(listed(asked.images), file, asked.top)
    lines, unread = sorted_out(found)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if asked.as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        sys.stdout.writelines(f"{text}\n" for text in lines)
    sys.stdout.flush()
    (sys.stderr if asked.as_json else sys.stdout).write(f"Files: {file}\n")
    if unread:
        sys.stderr.writelines(f"mfkd: {text}\n" for text in unread)
        sys.exit(UNREAD)
    return True


def understood(words: Sequence[str]) -> Question | None:
    """The question in these words; None where the whole command line must look at them."""
    if any(word.startswith("--") and word.partition("=")[0] not in OPTIONS for word in words):
        return None  # an abbreviation among them, which it refuses
    try:
        options, images = gnu_getopt(
            list(words), "m:", [name.removeprefix("--") + "=" * (name != "--json") for name in OPTIONS]
        )
    except GetoptError:
        return None
    told = {name.lstrip("-")[0]: value for name, value in options}
    top = told.get("t", "5")
    if not images or "m" not in told or not top.isdecimal() or int(top) < 1:
        return None
    return Question(images, told["m"], int(top), "j" in told)
