"""Logits to text: greedy decoding, long recordings, subtitles."""
