import pytest
import torch

from mfkd import hardware


@pytest.fixture
def machine(monkeypatch):
    """Another one: what its processor can do, and its GPU, if it has any."""

    def make(processor, cuda=None):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cuda or including_emulation)
        hardware.fast_bf16.cache_clear()

    yield make
    hardware.fast_bf16.cache_clear()


@pytest.mark.parametrize(
    ("processor", "cuda", "able"),
    [
        ({"avx2": True}, None, False),
        ({}, None, False),  # an architecture of which nothing is known
        ({"avx512_bf16": True}, None, True),
        ({"avx512_bf16": False, "amx_bf16": True}, None, True),
        ({"avx2": True}, True, True),
        ({"avx512_bf16": True}, False, False),  # training is on the GPU, which would emulate it
    ],
)
def test_bf16_is_fast_where_there_are_instructions_for_it(machine, processor, cuda, able):
    machine(processor, cuda)
    assert hardware.fast_bf16() is able
    assert (hardware.remarks("bf16") == []) is able
    assert hardware.remarks("fp32") == []


def test_emulation_is_told(machine):
    machine({})
    assert hardware.remarks("bf16") == [
        "train.precision is bf16, which this machine has no instructions for and computes several times slower than "
        "fp32; train.precision=auto takes fp32 here."
    ]
