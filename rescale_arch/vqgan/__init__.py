"""VQGAN: the vector-quantized autoencoder that VQIR builds on (arXiv 2012.09841)."""
