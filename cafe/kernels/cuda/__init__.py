"""The adapter's step on CUDA, in Triton: `adapter` has the derivation and the order of launches, and one file each
launch's kernel: `hidden`, `blend`, `logits`, `errors`, `through`, `weights`; `products` has what they share.

Tested in Triton's interpreter against float64, and compiled for real cards; never run on a GPU so far.
"""
