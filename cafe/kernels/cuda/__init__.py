"""Steps on a GPU, in Triton: `adapter` has the derivation and the order of its launches, each with a file of its own:
`hidden`, `blend`, `logits`, `errors`, `through`, `weights`. `class_weights` is the step on class weights, kernels and
all. `products` has what kernels share, `optimizers` the updates they end with, `training` the whole steps made of them.

Tested in Triton's interpreter against float64, and compiled for real cards; never run on a GPU so far.
"""
