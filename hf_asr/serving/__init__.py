"""Recognisers for people and programs: the Gradio demo, the engine behind it and REST."""
