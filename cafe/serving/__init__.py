"""A classifier behind an address: a page, an HTTP API, the Open Inference Protocol."""
