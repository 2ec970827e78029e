"""Models: a checkpoint or an exact toy as one thing with a denoiser, an encoder of conditions and a decoder."""
