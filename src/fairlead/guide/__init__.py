"""Guidance: terms, scales, finishers, the expressions they are written in, and the one executor that runs them."""
