"""Images in, names out: a fitted method together with the encoder that it was fitted on."""
