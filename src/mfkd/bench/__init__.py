"""Comparisons: plans of many trainings, and what can be said of their records."""
