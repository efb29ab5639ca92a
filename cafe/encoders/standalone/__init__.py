"""CLIP and SigLIP from their files alone: without transformers, and for a few images without torch."""
