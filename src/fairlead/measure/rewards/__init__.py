"""Rewards by what also measures: classifiers trained on the data, networks that compare an image with a text."""
