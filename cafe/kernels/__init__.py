"""Loss and gradients of the adapter and of class weights, and the optimisers' steps.

The adapter: `reference` (plain torch with autograd) is the truth; `cpu` has analytic gradients in blocks, in a direct
form and in one with fewer operations where the bottleneck is narrow or the batch large; `cuda/adapter` is the whole
step on a GPU. Class weights (TaskRes, CLAP, LP++, probes): `class_weights_reference` is the truth of `class_weights`.
`optimizers` has the update rules, `cuda/optimizers` the same for a GPU. What is for CUDA is tested in Triton's
interpreter and never ran on a GPU so far. `choose` says which of them runs.
"""
