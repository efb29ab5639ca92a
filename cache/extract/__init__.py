"""Extraction: every image and prompt through a frozen encoder once, onto the disk."""
