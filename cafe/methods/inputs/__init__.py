"""From what users pass to checked parameters and arrays; rows that stay on disk."""
