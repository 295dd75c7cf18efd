"""Finds where self-attention belongs in a timm CNN, by the build-up rule of "How Do Vision Transformers Work?"."""

__version__ = "0.1.0"
