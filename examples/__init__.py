"""The demo, which runs from a checkout: ``make demo``."""
