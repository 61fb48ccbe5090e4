"""The Gradio demo: transcribe speech, show its words on a timeline, and compare two checkpoints."""

from .app import build_demo
from .recognition import load_warm
from .server import launch

__all__ = ["build_demo", "launch", "load_warm"]
