"""Train, check and ship the captioner: a small decoder that cross-attends to the patches of the embedded model."""
