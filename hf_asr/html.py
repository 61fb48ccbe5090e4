"""Write self-contained HTML pages: charts are SVG, recordings are MP3 inside the file, and nothing is fetched."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import soundfile
from markupsafe import Markup

from .files import write_text

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; --accent: #2b6cb0 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 } th, td { text-align: left; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top } td.number, th.number { text-align: right }
audio { height: 2rem; width: 15rem; vertical-align: middle } svg { max-width: 100%; height: auto; background: #fff }
.headline { font-size: 2.2rem; font-weight: 600 } .muted { opacity: .7; font-size: .9em }
.charts { display: flex; flex-wrap: wrap; gap: 1rem } .wrong { color: var(--bad) } .wrong del { opacity: .75 }
.right { color: inherit } .alignment { font-size: 1.05em } code { font-size: .9em; overflow-wrap: anywhere }
"""

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("hf_asr", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Render a template of hf_asr/templates to a file; all `values` are escaped."""
    write_text(path, _ENVIRONMENT.get_template(template).render(style=Markup(STYLE), **values))


def audio_uri(waveform: np.ndarray, *, sampling_rate: int = 16000, max_seconds: float = 30.0) -> str:
    """Return the first `max_seconds` of a waveform (samples,) as an MP3 data URI for an <audio> element."""
    file = io.BytesIO()
    samples = np.clip(waveform[: round(max_seconds * sampling_rate)], -1, 1)
    soundfile.write(file, samples, sampling_rate, format="MP3", subtype="MPEG_LAYER_III")
    return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()


def histogram(values: Sequence[float], *, label: str, bins: int = 40) -> Markup:
    """Return a histogram as SVG; the last bar at each end includes the most extreme hundredth of the values."""
    values = np.asarray(values, dtype=float)
    low, high = np.quantile(values, [0.01, 0.99]) if len(values) else (0, 1)
    if (values == values.round()).all():
        width = max(1, round((high - low) / bins))
        bins = np.arange(np.floor(low), high + width + 1, width) - 0.5  # equally many whole numbers per bar
    figure, axis = _figure()
    axis.hist(np.clip(values, low, high), bins=bins, color="#2b6cb0")
    axis.set(xlabel=label, ylabel="utterances")
    return _svg(figure)


def bars(labels: Sequence[str], values: Sequence[float], *, xlabel: str, ylabel: str) -> Markup:
    """Return a bar chart as SVG."""
    figure, axis = _figure()
    axis.bar(list(labels), list(values), color="#2b6cb0")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return _svg(figure)


def _figure():
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(4.8, 2.6), constrained_layout=True)


def _svg(figure) -> Markup:
    import matplotlib.pyplot as plt

    file = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    plt.close(figure)
    return Markup(file.getvalue()[file.getvalue().index("<svg") :])
