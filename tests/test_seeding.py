import hashlib

import pytest
import torch

from mfkd.seeding import derive, generator, seeded, uniform

ROWS = torch.arange(20_000)


def test_derive_is_the_same_for_ever():
    assert derive(0) == 300471914551172981
    assert derive(3, "order", 7) == 5482907338127341058


def test_derive_is_63_bits_and_takes_keys_apart():
    seeds = [derive(s, *keys) for s in range(3) for keys in [(), ("a",), ("b",), ("a", 1), ("a", 11), (1, "a")]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_of_one_purpose_agree_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    first, again, other = (torch.rand(5, generator=generator(1, key)) for key in ("w", "w", "v"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_block_repeats_and_restores():
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(5, "weights"):
            draws.append(torch.rand(4))
    assert torch.equal(*draws)
    assert torch.equal(before, torch.get_rng_state())


def test_seeded_block_restores_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), seeded(5):
        torch.rand(3)
        raise RuntimeError("inside")
    assert torch.equal(before, torch.get_rng_state())


def test_uniform_equals_splitmix64_in_plain_integers():
    def reference(seed, view, row, draw, purpose):
        text = f"{seed}/{purpose}/{view}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % 2**63
        z = (row * 64 + draw + key) * 0x9E3779B97F4A7C15 % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return ((z ^ z >> 31) >> 40) / 2**24

    rows = [0, 1, 49_999, 2**40]
    got = uniform(9, 3, torch.tensor(rows), 5, "crop")
    expected = torch.tensor([[reference(9, 3, row, draw, "crop") for draw in range(5)] for row in rows])
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_a_row_gets_the_same_numbers_in_any_batch_and_position():
    whole = uniform(0, 0, ROWS[:100], 3, "crop")
    mixed = torch.randperm(100)
    assert torch.equal(uniform(0, 0, mixed, 3, "crop"), whole[mixed])
    assert torch.equal(uniform(0, 0, ROWS[17:18], 3, "crop"), whole[17:18])
    assert torch.equal(uniform(0, 0, ROWS[:100], 2, "crop"), whole[:, :2])


def test_uniform_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    uniform(0, 0, ROWS[:3], 3, "crop")
    assert torch.equal(before, torch.get_rng_state())


def test_uniform_has_the_moments_and_spread_of_the_uniform_distribution():
    draws = uniform(1, 2, ROWS, 4, "crop").double()  # 80,000 numbers
    assert ((draws >= 0) & (draws < 1)).all()
    # Standard errors over 80,000 draws: 0.0010 of the mean, 0.00026 of the variance.
    assert draws.mean().item() == pytest.approx(1 / 2, abs=0.005)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.0015)
    counts = torch.histc(draws, 16, 0, 1)  # 5,000 a bin, standard error 68
    assert (counts - 5_000).abs().max() < 300


@pytest.mark.parametrize("other", [(1, 3, 0, "crop"), (2, 2, 0, "crop"), (1, 2, 1, "crop"), (1, 2, 0, "flip")], ids=str)
def test_seeds_views_rows_and_purposes_are_independent(other):
    seed, view, shift, purpose = other
    first = uniform(1, 2, ROWS, 2, "crop").T.double()
    second = uniform(seed, view, ROWS + shift, 2, purpose).T.double()
    assert not torch.equal(first, second)
    correlation = torch.corrcoef(torch.cat([first, second]))  # standard error 1 / sqrt(20,000) = 0.007
    assert (correlation - torch.eye(4)).abs().max() < 0.035
