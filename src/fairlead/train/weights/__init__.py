"""Weights beside those that are trained: what a training starts from, and its averages."""
