"""The one training loop and what belongs to it; the only user of accelerate."""
