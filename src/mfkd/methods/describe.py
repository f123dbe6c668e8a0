"""The methods, what they need and their options as rows, read from where they are written."""

import inspect
import re
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mfkd.errors import MfkdError, UnknownNameError
from mfkd.methods import known_methods
from mfkd.methods.base import Context, Method
from mfkd.types import TapSpec
from mfkd.validation import describe

# A pair of networks with three stages, on which a method is built to see what it asks for.
CLASSES, WIDTH, EPOCHS = 2, 16, 240
SHAPES = {"stem": (4, 8, 8), "stage1": (4, 8, 8), "stage2": (8, 4, 4), "stage3": (WIDTH, 2, 2)}
ALIASES = {"front": "stage1", "middle": "stage2", "bottom": "stage3"}
VECTOR = "penultimate"


@dataclass(frozen=True)
class Wants:
    """What a method asks for with its default options, on networks with three stages.

    Args:
        words: in short, most telling first.
        student: taps of the student.
        teacher: taps of the teacher.
        stage: what the stage before training is about, "" where there is none.
    """

    words: tuple[str, ...]
    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    stage: str = ""


def overview() -> list[dict[str, Any]]:
    """One row a method: name, idea in a sentence, paper, default weight and, in words, what it needs."""
    return [
        {
            "method": name,
            "idea": idea(method),
            "paper": section(method, "Paper"),
            "weight": method.Config.model_fields["weight"].default,
            "needs": list(wants(method).words),
        }
        for name, method in known_methods().items()
    ]


def details(name: str) -> dict[str, Any]:
    """All that is written down of one method; `options` are rows of option, default and meaning.

    Raises:
        UnknownNameError: no such method, with the nearest ones.
    """
    known = known_methods()
    if name not in known:
        raise UnknownNameError("method", name, known)
    method, wanted = known[name], wants(known[name])
    return {
        "method": name,
        "idea": idea(method),
        "paper": section(method, "Paper"),
        "deviates": section(method, "Deviates"),
        "needs": list(wanted.words),
        "student_taps": list(wanted.student),
        "teacher_taps": list(wanted.teacher),
        "stage": wanted.stage,
        "options": [
            {"option": key, "default": default, "meaning": meaning} for key, default, meaning in describe(method.Config)
        ],
    }


def cite(paper: str) -> str:
    """A paper without title and address: at most two authors, venue and year."""
    short = re.sub(r'"[^"]*",?|https?://\S+', "", paper)
    short = re.sub(r"(\b[A-Z]\w+)(?:, [A-Z]\w+)+ and [A-Z]\w+", r"\1 et al.", short)
    return re.sub(r",(?=\s*(,|\(|$))", "", re.sub(r"\s+", " ", short)).strip(" ,")


def shown(default: str) -> str:
    """A default for people: 1/12 as 0.08333."""
    return re.sub(r"\d+\.\d{6,}", lambda found: f"{float(found[0]):.4g}", default)


def idea(method: type[Method]) -> str:
    """What the first line of the method's module says, without the name and the full stop."""
    return _head(method).partition("\n")[0].partition(": ")[2].rstrip(".")


def section(method: type[Method], title: str) -> str:
    """One entry of the head of the method's module, such as `Paper`, on one line; "" where there is none."""
    found: list[str] = []
    for line in _head(method).splitlines():
        if line.startswith(f"{title}:"):
            found.append(line.removeprefix(f"{title}:").strip())
        elif found and not line.startswith(" "):
            break
        elif found:
            found.append(line.strip())
    return " ".join(found)


def wants(method: type[Method]) -> Wants:
    """Build a method on an example, and again without each thing that it might not do without."""
    try:
        built = method(method.Config.model_validate({}), example())
    except (MfkdError, ValueError):
        return Wants(("not known",))
    needs, stage = built.needs, built.preparation()
    maps = [len([tap for tap in side if tap != VECTOR]) for side in (needs.student, needs.teacher)]
    said = {
        "no teacher": not method.needs_teacher,
        "logits": needs.logits,
        "map": max(maps) == 1,
        "maps": max(maps) > 1,
        "vector": VECTOR in (*needs.student, *needs.teacher),
        "labels": needs.labels,
        "index": needs.index,
        "all labels": _refuses(method, labels=None),
        "same classes": not needs.logits and _refuses(method, teacher_logits=False),
        "same widths": _refuses(method, student=network(2), student_classifier=lambda: nn.Linear(WIDTH // 2, CLASSES)),
        "teacher's classifier": _refuses(method, teacher_classifier=lambda: None),
        "student's classifier": _refuses(method, student_classifier=lambda: None),
        "teacher's BatchNorm": _refuses(method, teacher_norm=lambda _: None),
        "stage before training": stage is not None,
    }
    told = "" if stage is None else "the student's own layers" if stage.trains_student else "a part beside the teacher"
    return Wants(tuple(word for word, holds in said.items() if holds), needs.student, needs.teacher, told)


def network(narrower: int = 1) -> dict[str, TapSpec]:
    """Taps of a network with three stages: after and before the activation, their aliases, and the pooled vector."""
    shapes = {name: (channels // narrower, *size) for name, (channels, *size) in SHAPES.items()}
    named = {f"{name}{end}": shape for name, shape in shapes.items() for end in ("", ".pre")}
    named |= {alias: shapes[stage] for alias, stage in ALIASES.items()}
    width = WIDTH // narrower
    vector = TapSpec(VECTOR, "fc", width, side="input", layout="vector", shape=(width,))
    return {**{name: TapSpec(name, name, shape[0], shape=shape) for name, shape in named.items()}, VECTOR: vector}


def example(**lacking: Any) -> Context:
    """Two networks of one shape, with everything that a method may ask for but what is set otherwise."""
    specs = network()
    context = Context(
        student=specs,
        teacher=specs,
        num_classes=CLASSES,
        num_samples=CLASSES,
        labels=torch.arange(CLASSES),
        teacher_classifier=lambda: nn.Linear(WIDTH, CLASSES).requires_grad_(False),
        student_classifier=lambda: nn.Linear(WIDTH, CLASSES),
        teacher_norm=lambda name: nn.BatchNorm2d(specs[name].channels),
        epochs=EPOCHS,
    )
    return replace(context, **lacking)


def _refuses(method: type[Method], **lacking: Any) -> bool:
    try:
        method(method.Config.model_validate({}), example(**lacking))
    except MfkdError:
        return True
    return False


def _head(method: type[Method]) -> str:
    return inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
