"""What a network costs to run: parameters, FLOPs, milliseconds an image."""

import torch
from torch import nn


@torch.no_grad()
def cost(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, float]:
    """Cost of one image on the network's own device, in fp32.

    Args:
        network: classifier; measured in eval mode, its mode restored.
        input_shape: (C, H, W).

    Returns:
        parameters (count), flops (two a multiply-add, from torch's own counter), latency_ms (median
        at batch 1, at least one second of repeats).
    """
    from torch.utils.benchmark import Timer
    from torch.utils.flop_counter import FlopCounterMode

    first = next(network.parameters())
    image = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    training = network.training
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            network(image)
        timer = Timer(
            "network(image)", globals={"network": network, "image": image}, num_threads=torch.get_num_threads()
        )
        timer.timeit(5)
        latency = timer.blocked_autorange(min_run_time=1.0).median
    finally:
        network.train(training)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "flops": counter.get_total_flops(),
        "latency_ms": 1000 * latency,
    }
