"""Pictures and LMDB in, tensors out, and preparing data sets. Knows no network."""
