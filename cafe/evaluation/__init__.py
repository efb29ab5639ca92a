"""How good predictions and features are."""
