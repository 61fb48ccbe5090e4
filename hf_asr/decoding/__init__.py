"""Logits to text: greedy decoding, beam search, long recordings, subtitles."""
