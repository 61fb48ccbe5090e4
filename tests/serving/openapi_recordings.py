"""Recordings for schemathesis, which would otherwise send images. SCHEMATHESIS_HOOKS names this file:

python scripts/serve.py --model_name_or_path M --port 5000
SCHEMATHESIS_HOOKS=tests.serving.openapi_recordings schemathesis run http://127.0.0.1:5000/openapi.json
"""

import io

import numpy as np
import schemathesis
import soundfile
from hypothesis import strategies


@strategies.composite
def wavs(draw) -> bytes:
    """Draw a wav file of noise, between 0.1 and 2 seconds long."""
    generator = np.random.default_rng(draw(strategies.integers(0, 9)))
    target = io.BytesIO()
    samples = generator.normal(0, 0.1, draw(strategies.integers(1000, 16000)))
    soundfile.write(target, samples, draw(strategies.sampled_from([8000, 16000, 44100])), format="WAV")
    return target.getvalue()


schemathesis.openapi.media_type("audio/wav", wavs())
