"""Arguments, trainer, callbacks, and the run that joins them."""
