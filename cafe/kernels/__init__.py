"""Loss and gradients of the adapter: `reference` (plain torch with autograd) is the truth."""
