"""Experiments of two equal methods: what a paired test is asked to say of them is known.

Right or wrong is a threshold of ``difficulty[i] + method x image + method x draw + rest``, all normal, for two methods
that are equal on average over images and draws.
"""

# Sizes of method x image and method x draw: none to strong, with the draws from hidden to dominant.
KINDS = [(0.0, 0.0), (0.3, 0.0), (0.3, 0.06), (0.3, 0.15), (0.3, 0.4), (1.0, 0.06), (1.0, 0.4), (0.0, 0.1)]


def correct(rng, of_image, of_draw, seeds=3, images=500):
    """Return what two equal methods have right, two arrays (seeds, images)."""
    difficulty = 1.0 + 1.5 * rng.normal(size=(1, images))
    return [
        difficulty
        + of_image * rng.normal(size=(1, images))
        + of_draw * rng.normal(size=(seeds, 1))
        + 0.5 * rng.normal(size=(seeds, images))
        > 0
        for _ in range(2)
    ]
