"""Train a recogniser: `prepare` the data and the model, `fit`, and record the results."""
