"""Moving shapes and a tiny CLIP: what makes everything run offline, and a benchmark of temporal order."""
