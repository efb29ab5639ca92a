"""Frozen image and text towers."""

from cafe.encoders.opening import open_encoder

__all__ = ["open_encoder"]
