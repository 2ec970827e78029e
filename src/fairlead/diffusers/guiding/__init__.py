"""Guidance inside a pipeline of diffusers: attached to its network, or as a guider of its own."""
