"""From a video file to pixels: which frames (sampling), decoding (decode), CLIP's image transform (preprocess)."""
