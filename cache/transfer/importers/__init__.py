"""Readers for features that other tools extracted: one file per layout, with ``IMPORTER = "name"``."""
