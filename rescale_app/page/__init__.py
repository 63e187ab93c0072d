"""The inspection page: ``rescale demo``."""
