"""AIDN and AIDN+: image rescaling by any factor (arXiv 2201.12576)."""
