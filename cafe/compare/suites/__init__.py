"""One file per suite of `cafe compare`."""
