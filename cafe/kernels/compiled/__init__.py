"""The adapter's step on a CPU with its passes in C: the library that an installation builds, and the step that uses it.

``passes.c`` and ``typed_passes.h`` are the passes; setup.py builds them where a C compiler is at hand. ``library.py``
loads what was built, or says why it cannot. Without it cafe runs all the same, by PyTorch's operations.
"""
