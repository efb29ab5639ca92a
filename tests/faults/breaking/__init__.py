"""Breaks cafe on purpose: damaged files, hostile files, kills, full disks; and judges what a user would have seen."""
