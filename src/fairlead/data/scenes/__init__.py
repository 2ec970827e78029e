"""Captioned digits in colour: drawn, described, and read back. Nothing else needs this folder."""
