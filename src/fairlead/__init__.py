"""fairlead: train, guide, measure and tune conditional diffusion models."""

__version__ = "0.1.0"
