"""Upload checkpoints and demos to the Hugging Face Hub, and import models of WeNet."""
