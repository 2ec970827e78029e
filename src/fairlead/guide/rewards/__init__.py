"""Rewards: what a denoised image can be scored by, for ``energy``, for particles and for measuring."""
