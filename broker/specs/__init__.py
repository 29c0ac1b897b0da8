"""Tool specifications: read, checked, versioned by digest, and asked whether arguments and results fit."""
