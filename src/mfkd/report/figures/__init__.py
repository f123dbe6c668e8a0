"""Figures, drawn with matplotlib: small enough for a phone, told apart without colour."""
