"""What a data set consists of: the manifest of clips, captions and splits."""
