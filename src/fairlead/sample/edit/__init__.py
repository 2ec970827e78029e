"""Samples that begin at something that is there: an image with noise, or the noise that an image is the sample of."""
