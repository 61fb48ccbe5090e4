"""From any source of recordings and transcripts to batches of log-mel features and labels."""
