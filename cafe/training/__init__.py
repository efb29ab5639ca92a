"""The one trainer, its steps and its optimisers."""
