# ruff: noqa: S101
"""What is checked of one network of timm or torchvision: its taps, its final features, one step of MFKD."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from zoo_networks import EXCEPTIONS, FINAL, NETWORKS  # beside this file

from mfkd import Distiller, build_model
from mfkd.taps import find_taps, read
from mfkd.taps.reader import tensors
from mfkd.types import TapSpec

LEVELS = ("front", "middle", "bottom")
CLASSES = 5


@dataclass
class Row:
    """What was seen of one network."""

    network: str
    size: int
    kind: str
    paths: list[str]
    shapes: list[str]
    final: str
    parameters: int
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    seconds: float = 0.0


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network with seeded random weights, none of which is zero, and the shape of its images."""
    size, options = (NETWORKS | {name: (one.size, one.options) for name, one in EXCEPTIONS.items()})[name]
    torch.manual_seed(0)
    model = build_model(name, num_classes=CLASSES, **options)
    for module in model.modules():  # with two images a whole block would often be skipped
        skips = {"StochasticDepth": "p", "DropPath": "drop_prob"}.get(type(module).__name__)
        if skips:
            setattr(module, skips, 0.0)
    return model, (3, size, size)


def shake(model: nn.Module) -> None:
    """Add noise to all parameters, since zero-initialised layers cut gradients and hide differences."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def where(spec: TapSpec) -> str:
    """A tap's place as one word: module path, side and item where they are not the usual."""
    item = f"[{spec.item}]" if spec.item else ""
    return f"{spec.path}{item}" if spec.side == "output" else f"{spec.path}{item} (input)"


def examine(name: str) -> Row:
    """Check one network.

    Raises:
        AssertionError: a check failed; the text says which.
        MfkdError: the network cannot be tapped at all.
    """
    start = perf_counter()
    model, shape = build(name)
    fresh = find_taps(model, shape)
    shake(model)
    found = find_taps(model, shape)
    taps = {level: found[level] for level in LEVELS}
    places = [where(spec) for spec in taps.values()]
    assert places == [where(fresh[level]) for level in LEVELS], f"other weights, other taps: {places}"
    assert len(set(places)) == 3, f"taps are not three: {places}"
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    row = Row(
        name,
        shape[1],
        _kind(model, [spec.shape for spec in taps.values()]),
        places,
        [" x ".join(map(str, spec.shape or ())) for spec in taps.values()],
        final_relation(name, model.eval(), image, taps["bottom"]),
        sum(parameter.numel() for parameter in model.parameters()),
    )
    with torch.no_grad():
        logits = model(image)
        for level, spec in taps.items():
            assert not torch.equal(disturbed(model, image, spec, whole=True), logits), f"{level} is not used"
            if torch.equal(disturbed(model, image, spec, whole=False), logits):
                row.notes.append(f"the {level} map itself does not reach the logits")
    row.unused = step(build_model("resnet8", num_classes=CLASSES), model, image)
    without = step(model, build_model("resnet8", num_classes=CLASSES), image)
    assert not without, f"parameters of resnet8 without gradient: {without}"
    row.seconds = perf_counter() - start
    return row


def final_relation(name: str, model: nn.Module, image: Tensor, bottom: TapSpec) -> str:
    """How the bottom tap stands to the network's own final features, in words."""
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def listen(path: str) -> Any:
        return lambda _, args, output: seen.update({path: (tensors(args), tensors(output))})

    handles = [m.register_forward_hook(listen(path)) for path, m in model.named_modules() if path]
    with torch.no_grad():
        tap = read(model, image, [bottom]).taps[bottom.name]
        for handle in handles:
            handle.remove()
        if name in FINAL:
            path, side = FINAL[name]
            finals = seen[path][0 if side == "input" else 1]
            source = f"{side} of `{path}`"
        else:
            finals, source = tensors(model.forward_features(image)), "`forward_features`"
        own = [] if name in FINAL else model.forward_intermediates(image, intermediates_only=True)
    if any(same(final, tap) for final in finals):
        return f"{source}"
    for path, (got, gave) in seen.items():
        light = all(sum(side > 1 for side in p.shape) < 2 for p in model.get_submodule(path).parameters())
        if (
            light
            and any(same(one, tap) for one in got)
            and any(same(g, _) for g in gave for _ in pictures(finals, tap))
        ):
            return f"{source} before `{path}`"
    if own and same(own[-1], tap):
        return "last of `forward_intermediates`"
    raise AssertionError(
        f"{bottom.name} at {where(bottom)} is not the final features {[tuple(f.shape) for f in finals]}"
    )


def pictures(values: list[Tensor], like: Tensor) -> list[Tensor]:
    """Values as (B, C, h, w), those that can be read in the shape of `like`."""
    _, channels, height, width = like.shape
    found = []
    for value in values:
        if value.shape == like.shape:
            found.append(value)
        elif tuple(value.shape[1:]) == (height, width, channels):
            found.append(value.permute(0, 3, 1, 2))
        elif value.ndim == 3 and value.shape[2] == channels and value.shape[1] >= height * width:
            tokens = value[:, value.shape[1] - height * width :]
            found.append(tokens.reshape(len(value), height, width, channels).permute(0, 3, 1, 2))
    return found


def same(value: Tensor, tap: Tensor) -> bool:
    """Whether a value is a map, in any layout."""
    return any(torch.allclose(one, tap, rtol=1e-4, atol=1e-5) for one in pictures([value], tap))


def disturbed(model: nn.Module, image: Tensor, spec: TapSpec, *, whole: bool) -> Tensor:
    """Logits with noise on what the tap's module gives (or gets): all of it, or the map alone."""
    generator = torch.Generator().manual_seed(3)

    def noisy(value: Any, item: list[int]) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(noisy(one, item) for one in value)
        if not isinstance(value, Tensor):
            return value
        number, item[0] = item[0], item[0] + 1
        noise = torch.randn(value.shape, generator=generator) * (value.std() + 1)
        if not whole:
            noise[:, : spec.prefix_tokens] *= 0
            noise *= number == spec.item
        return value + noise if value.is_floating_point() else value

    module = model.get_submodule(spec.path)
    if spec.side == "input":
        handle = module.register_forward_pre_hook(lambda _, args: noisy(args, [0]))
    else:
        handle = module.register_forward_hook(lambda _, __, output: noisy(output, [0]))
    try:
        return model(image)
    finally:
        handle.remove()


def step(teacher: nn.Module, student: nn.Module, image: Tensor) -> list[str]:
    """One step of MFKD; names of the student's trainable parameters that get no gradient."""
    labels = torch.arange(len(image)) % CLASSES
    trainable = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    distiller = Distiller(teacher, student, {"mfkd": {}}, input_shape=tuple(image.shape[1:]))
    distiller.prepare([(image, labels)])
    distiller.train()
    torch.manual_seed(4)
    student.zero_grad()
    out = distiller(image, labels)
    assert out.loss.isfinite(), f"the loss is {out.loss}"
    out.loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items()), "the teacher moved"
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    return [name for name in trainable if gradients[name] is None or not gradients[name].abs().sum() > 0]


def _kind(model: nn.Module, shapes: list[Any]) -> str:
    source = "own maps" if hasattr(model, "forward_intermediates") else "recorded maps"
    return f"{source}, depth thirds" if len(set(shapes)) == 1 else f"{source}, resolutions"
