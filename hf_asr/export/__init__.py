"""Export a checkpoint to graphs for other runtimes, and check that they give the same output."""
