"""VQIR: image rescaling by 16 and 32 (IEEE TCSVT 2024)."""
