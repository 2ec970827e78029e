"""Tuning: sweeps over guidance settings with common seeds."""
