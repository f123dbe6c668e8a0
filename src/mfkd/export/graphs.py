"""A network as a graph of torch.export: dynamic batch, BatchNorm folded into the convolution before it.

Shapes: B batch; C, H, W channels, height, width; K classes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mfkd.errors import MfkdError
from mfkd.export.feed import Feed
from mfkd.files import write_atomic

_CONVOLUTIONS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv3d.default,
}


class Normalised(nn.Module):
    """A network that takes raw pixels, (B, H, W, C) uint8, and gives logits (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, feed: Feed) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(feed, name))[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        pixels = image.permute(0, 3, 1, 2).float() / 255
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def capture(network: nn.Module, feed: Feed) -> ExportedProgram:
    """The graph of a network in eval mode, for any batch of one or more, with BatchNorm folded.

    Args:
        network: on the CPU; maps (B, C, H, W) to logits (B, K).
        feed: size of the images; with `embedded` the graph takes raw pixels.

    Raises:
        MfkdError: torch.export cannot follow the network, or fixes the size of the batch.
    """
    whole = (Normalised(network, feed) if feed.embedded else network).eval()
    folded = whole
    try:
        traced = _export(whole, feed)
        folded = traced.module(check_guards=False)
        if fold(folded):
            traced = _export(folded, feed)
    except Exception as error:  # it raises almost anything, also what the network's own code does
        told = " ".join(str(error).split())[:200]
        raise MfkdError(
            f"{feed.model} cannot be exported by torch.export ({type(error).__name__}: {told}); write its forward "
            "pass without branches on the values or the number of its images."
        ) from error
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths on this machine
    return traced


def save_program(path: Path, program: ExportedProgram) -> None:
    """Write `model.pt2`, which `torch.export.load` reads."""
    write_atomic(path, lambda file: torch.export.save(program, file))


def fold(graph: GraphModule) -> int:
    """Put each BatchNorm that follows a convolution into that convolution's weight and bias.

    Args:
        graph: of a network in eval mode, changed in place: y = g (conv(x) - m) / sqrt(v + e) + b is again a
            convolution, of weight w g / sqrt(v + e).

    Returns:
        How many were folded; those that follow something else, a map that is also used elsewhere, or a convolution
        whose weight is computed, remain.
    """
    count = 0
    for norm in list(graph.graph.nodes):
        if norm.target is not torch.ops.aten.batch_norm.default:
            continue
        convolution = norm.args[0]
        if convolution.target not in _CONVOLUTIONS or len(convolution.users) > 1 or norm.args[5]:
            continue
        nodes = [*(*convolution.args, None)[1:3], *norm.args[1:5]]
        if any(node is not None and node.op != "get_attr" for node in nodes):  # computed, as by weight_norm
            continue
        weight, bias, scale, shift, mean, variance = (_value(graph, node) for node in nodes)
        pair = fuse_conv_bn_weights(weight, bias, mean, variance, norm.args[7], scale, shift)
        nodes = []
        for name, tensor in zip(("weight", "bias"), pair, strict=True):
            graph.register_parameter(f"folded_{count}_{name}", nn.Parameter(tensor.detach(), requires_grad=False))
            with graph.graph.inserting_before(convolution):
                nodes.append(graph.graph.get_attr(f"folded_{count}_{name}"))
        convolution.args = (convolution.args[0], *nodes, *convolution.args[3:])
        norm.replace_all_uses_with(convolution)
        graph.graph.erase_node(norm)
        count += 1
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return count


def _value(graph: GraphModule, node: Node | None) -> Any:
    if node is None:
        return None
    value: Any = graph
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value


def _export(network: nn.Module, feed: Feed) -> ExportedProgram:
    dtype = torch.uint8 if feed.embedded else torch.float32
    example = torch.zeros(2, *feed.shape, dtype=dtype)
    return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
