"""Mathematics that methods share; tensors in, tensors out, no state."""
