"""The fingerprint of knowledge: everything that it depends on, as plain values."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfkd.config import RunConfig
from mfkd.data import ImageData, MemorySplit, Split
from mfkd.files import sha256
from mfkd.methods.base import Method, MethodConfig
from mfkd.models import local_files
from mfkd.nn.once import once_state
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.several import SeveralTeachers
from mfkd.teacher.source import LiveSource
from mfkd.types import TapSpec

LOGITS = "teacher/logits"
"""Name of the logits among the tensors; tensors of methods are called "method/name", taps have no slash."""
SAMPLED = 64  # files of a large set that are read as a whole; of all others the size is enough


def fields(
    config: RunConfig, data: ImageData, source: LiveSource, shapes: Mapping[str, tuple[int, ...]], views: int
) -> dict[str, Any]:
    """What knowledge of these images from this source depends on.

    Args:
        config: the complete recipe, defaults filled in.
        data: its images; the training split is meant.
        source: the teacher, and the methods with their prepared parts.
        shapes: of each tensor that the source gives, without the batch.
        views: V.

    Returns:
        Values as JSON has them, in a fixed order.
    """
    train = data.train
    found = {
        "views": views,
        "view_seed": config.augment.view_seed,
        "storage": config.cache.dtype,
        "compute": config.train.precision,
        "teacher": teacher_fields(config, source.teacher),
        "data": {
            "name": config.data.name,
            "fraction": config.data.fraction,
            "val_fraction": config.data.val_fraction,
            "split_seed": config.data.split_seed,
            "unlabelled": config.data.unlabelled,
            "images": len(train),
            "rows": hashed([train.rows]),
            "labels": hashed([train.labels]),
            "pixels": _pixels(train),
        },
        "preprocessing": {
            "mean": data.mean,
            "std": data.std,
            "size": data.size,
            "resize": config.data.resize if isinstance(train, MemorySplit) else data.resize,
            "interpolation": data.interpolation,
            **({} if config.data.copies is None else {"copies": config.data.copies}),
        },
        "augment": config.augment.model_dump(mode="json", exclude={"view_seed", "views", "mixup", "cutmix"}),
        "tensors": {
            name: {"shape": shape, **_origin(name, source)} for name, shape in sorted(shapes.items())
        },
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def teacher_fields(config: RunConfig, teacher: FrozenTeacher) -> dict[str, Any]:
    """Weights, and what else decides the answer of each of its networks."""
    members = [part for part in teacher.modules() if isinstance(part, FrozenTeacher)]
    configs = list(config.named_teachers.values())
    found: dict[str, Any] = {
        "model": [one.model for one in configs],
        "options": [{name: value for name, value in one.options.items() if name != "pretrained"} for one in configs],
        "code": [sha256(file) for one in configs for file in local_files(one.model)],
        "image_size": [member.image_size for member in members],
        "weights": hashed(t for part in (teacher.named_parameters(), teacher.named_buffers()) for _, t in part),
    }
    if isinstance(teacher, SeveralTeachers):
        found["mean"] = [teacher.network.weights, teacher.network.temperature]
    return found


def _origin(name: str, source: LiveSource) -> dict[str, Any]:
    """Where a tensor comes from: taps of the teacher, through a method or as they are."""
    specs = {spec.name: spec for spec in source.specs}
    if name == LOGITS:
        return {}
    if name in specs:
        return {"tap": _tap(specs[name])}
    methods = source.objective.named()
    makers = [method for owner, method in methods if owner == name.partition("/")[0]] or [m for _, m in methods]
    return {
        "taps": [_tap(specs[tap]) for method in makers for tap in method.needs.teacher],
        "options": [options_of_knowledge(method) for method in makers],
        "weights": hashed(value for method in makers for value in once_state(method).values()),
    }


def options_of_knowledge(method: Method) -> dict[str, Any]:
    """The options that a method's transform depends on."""
    values = method.config.model_dump(mode="json")
    names = method.knowledge_options
    if names is None:
        names = tuple(name for name in values if name not in MethodConfig.model_fields)
    return {name: values[name] for name in names}


def _tap(spec: TapSpec) -> dict[str, Any]:
    values = asdict(spec)
    names = ("path", "side", "activated", "layout", "prefix_tokens", "grid")
    # Named only where it is so, since it alone changes what was read before there were copies.
    return {name: values[name] for name in (*names, *(("overwritten",) if spec.overwritten else ()))}


def _pixels(split: Split) -> str:
    """Of images in memory all; of files the sizes, and the content of a few spread over the set."""
    if isinstance(split, MemorySplit):
        return hashed([split.images])
    digest = hashlib.sha256()
    step = max(1, len(split) // SAMPLED)
    for number, source in enumerate(split.paths):
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        digest.update(f"{size}\n".encode())
        if number % step == 0:
            digest.update(source if isinstance(source, bytes) else Path(source).read_bytes())
    return digest.hexdigest()[:16]


def hashed(tensors: Iterable[Tensor]) -> str:
    """Sixteen hex digits over shapes, dtypes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        kept = tensor.detach().to("cpu").contiguous()
        digest.update(f"{kept.dtype} {tuple(kept.shape)}\n".encode())
        digest.update(kept.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
