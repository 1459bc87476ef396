"""CLIP for video."""
