"""Image files, weights files and datasets. Independent of the networks."""
