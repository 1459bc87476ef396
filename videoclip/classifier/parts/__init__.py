"""What several classifiers share: search, cache of keys, learning, prompts."""
