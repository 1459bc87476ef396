"""Ranges of the numbers that users give, on the command line, in configurations and to components."""

LARGEST = 10**9  # no size, duration or weight that anybody means lies above it
LARGEST_COUNT = 10**6  # of frames, clips of a class, seeds, layers, steps between two events
LARGEST_SEED = 2**32 - 1  # what numpy and torch both take
MOST_WORKERS = 4096
