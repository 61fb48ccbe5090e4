"""A checkpoint as a graph that other runtimes load, proven equal to it."""
