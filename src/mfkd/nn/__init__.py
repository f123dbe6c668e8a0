"""Trainable parts that methods share."""
