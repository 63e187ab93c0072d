"""The web page of ``rescale demo``."""
