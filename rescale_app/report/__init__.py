"""``rescale report``: the results of a test as one HTML file."""
