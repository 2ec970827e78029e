"""All that knows diffusers and transformers: their networks, autoencoders, text encoders and pipelines.

Folders above reach it through names in the registry; nothing here is imported before it is asked for.
"""
