"""Noise streams, time grids and samplers: from a denoiser and a start to a stream of frames.

One sampler per file; each is a frozen dataclass and a generator of frames (``sampler.py``). Grids are functions of a
schedule and a number of steps (``grids.py``); noise is a function of a sample's seed and the step (``noise.py``).
"""
