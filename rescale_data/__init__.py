"""Images, weights and datasets: reading, writing, preparing. Independent of the networks."""
