"""The experts that ``auto`` mixes, and how it weighs them."""
