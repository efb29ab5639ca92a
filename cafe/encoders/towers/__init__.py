"""What encoders on torch share: batches, croppers, hashes of weights."""
