"""A small, real CLIP that this project trained on pictures it drew itself.

``MODEL_FOLDER`` is the folder of the trained model in the Hugging Face
layout; ``cafe:mini`` is its short name elsewhere in the package. Importing
this module imports neither torch nor transformers.
"""

import pathlib

MODEL_FOLDER: pathlib.Path = pathlib.Path(__file__).resolve().parent / "model"

__all__ = ["MODEL_FOLDER"]
