"""Loss and gradients of the adapter.

`reference` (plain torch with autograd) is the truth; `cpu` has analytic gradients in blocks; `triton_step` is for
CUDA, tested in Triton's interpreter and never run on a GPU so far; `choose` says which of them runs.
"""
