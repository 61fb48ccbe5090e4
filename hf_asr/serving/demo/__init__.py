"""The Gradio demo: transcribe speech, show its words on a timeline, and compare two checkpoints."""

from .app import build_demo
from .live import live_service
from .recognition import load_warm
from .server import launch

__all__ = ["build_demo", "launch", "live_service", "load_warm"]
