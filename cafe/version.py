"""The version, in a file of its own, so that no floor needs the package's face to know it."""

__version__ = "0.1.0"
