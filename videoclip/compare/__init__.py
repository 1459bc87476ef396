"""Modules beside each other: what they cost, how well they do on equal terms, and whether they use time."""
