"""VQIR: image rescaling by factors of 16 and 32 (IEEE TCSVT 2024)."""
