"""The file format: layout, checksums and identity; reading, writing and verifying it. cache/FORMAT.md is its text."""
