"""Loss and gradients of the adapter.

`reference` (plain torch with autograd) is the truth; `cpu` has analytic gradients in blocks, and `cpu_projected` the
same with fewer operations where the bottleneck is narrow or the batch large; `triton_step` and `triton_update` are for
CUDA, where `graph_capture` records and replays whole steps: tested in Triton's interpreter and never run on a GPU so
far. `choose` says which of them runs.
"""
