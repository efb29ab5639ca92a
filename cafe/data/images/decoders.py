"""The names of what decodes JPEG files, which need not wait for Pillow; :mod:`cafe.data.images.decoding` says more."""

from __future__ import annotations

PILLOW = "pillow"
SIMPLEJPEG = "simplejpeg"
NVJPEG = "nvjpeg"
DECODERS = (PILLOW, SIMPLEJPEG, NVJPEG)
