"""Turn any source of recordings and transcripts into batches of log-mel features and labels."""
