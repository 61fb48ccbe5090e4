"""HTML of recognised words: coloured by confidence, and on a timeline with waveform and spectrogram.

The browser draws the text, so the server needs no fonts, and it writes no files.
"""

import base64
import io
from collections.abc import Collection, Sequence

import matplotlib.image
import numpy as np
from markupsafe import Markup

from ...decoding.transcript import Word

# Lowest confidence of each class. Most confidences of CTC are near 1, so the classes are narrow at the top.
LEVELS = (0.95, 0.8, 0.6, 0.0)

# Every word has its confidence as a number, and the classes differ in lightness: the page is readable without colour.
STYLE = """
.asr-word, .asr-key { color: #111; border-radius: 6px; padding: 1px 5px; margin: 2px 1px; display: inline-block }
.asr-word sub { color: inherit; font-size: .62em; opacity: .8; margin-left: 2px; vertical-align: baseline }
.asr-words { font-size: 1.25em; line-height: 1.9; max-height: 16em; overflow-y: auto }
.asr-0 { background: #dbe9f6; fill: #6baed6 } .asr-1 { background: #fee391; fill: #fec44f }
.asr-2 { background: #fdae6b; fill: #f16913 } .asr-3 { background: #a63603; color: #fff; fill: #a63603 }
.asr-differs { outline: 2px solid var(--body-text-color); outline-offset: -2px; font-weight: 600 }
.asr-legend, .asr-facts { font-size: .85em; color: var(--body-text-color-subdued); margin: 4px 0 10px }
.asr-scroll { width: 0; min-width: 100%; overflow-x: auto; margin: 4px 0 10px;
  border: 1px solid var(--border-color-primary); border-radius: 8px }
.asr-scroll svg { display: block; font: 13px system-ui, sans-serif; color: var(--body-text-color) }
.asr-wave { fill: #4292c6 } .asr-span { fill: #fff; fill-opacity: .22 } .asr-axis { font-size: 11px; opacity: .65 }
.asr-scroll text { fill: currentColor }
"""

PIXELS_PER_SECOND = 150  # minimum; with fewer pixels, the labels of fast speech overlap
WAVE_HEIGHT, MEL_HEIGHT, ROW_HEIGHT, ROWS = 56, 120, 24, 3
MAX_COLUMNS = 6000


def level(confidence: float) -> int:
    """Return the index in `LEVELS` of a confidence, rounded to whole percent as it is shown."""
    return next(index for index, lowest in enumerate(LEVELS) if round(confidence, 2) >= lowest)


def word_chips(words: Sequence[Word], *, framed: Collection[int] = ()) -> Markup:
    """Return the words, each with its confidence in percent and a tooltip with its time.

    Args:
        framed: Indices of the words that get a frame.
    """
    chips = []
    for index, word in enumerate(words):
        classes = f"asr-word asr-{level(word.confidence)}" + (" asr-differs" if index in framed else "")
        chips.append(
            Markup('<span class="{}" title="{}">{}<sub>{:.0f}</sub></span>').format(
                classes, _tooltip(word), word.word, 100 * word.confidence
            )
        )
    return Markup('<div class="asr-words">{}</div>').format(Markup(" ").join(chips))


def legend(label: str) -> Markup:
    """Return the explanation of the colours, after `label`."""
    keys = [
        Markup('<span class="asr-key asr-{}">{}{:.0f}</span>').format(index, "≥ " if lowest else "< ", 100 * shown)
        for index, lowest in enumerate(LEVELS)
        for shown in [lowest or LEVELS[index - 1]]
    ]
    return Markup('<div class="asr-legend">{} {}</div>').format(label, Markup(" ").join(keys))


def timeline(waveform: np.ndarray, features: np.ndarray, words: Sequence[Word], *, sampling_rate: int) -> Markup:
    """Return waveform, log-mel spectrogram and words above one time axis in seconds; long recordings scroll.

    Args:
        waveform: (samples,) in [-1, 1].
        features: Log-mel spectrogram (frames, num_mel_bins).
        sampling_rate: Of the waveform, in Hz.
    """
    seconds = len(waveform) / sampling_rate
    width = max(1, round(seconds * PIXELS_PER_SECOND))
    rows = _rows(words, width=width, seconds=seconds)
    top = WAVE_HEIGHT + MEL_HEIGHT
    axis = top + ROW_HEIGHT * (1 + max(rows, default=0)) + 18
    labels = [_label(word, row, top=top, width=width, seconds=seconds) for word, row in zip(words, rows, strict=True)]
    return Markup(
        '<div class="asr-scroll" tabindex="0"><svg width="100%" height="{height}" style="min-width:{width}px">'
        '<svg width="100%" height="{wave}" viewBox="0 -1 {columns} 2" preserveAspectRatio="none">'
        '<path class="asr-wave" d="{outline}"/></svg>'
        '<image y="{wave}" width="100%" height="{mel}" preserveAspectRatio="none" href="{picture}"/>'
        "{labels}{ticks}</svg></div>"
    ).format(
        height=axis + 6,
        width=width,
        wave=WAVE_HEIGHT,
        mel=MEL_HEIGHT,
        columns=min(len(waveform), MAX_COLUMNS, 2 * width),
        outline=_outline(waveform, columns=min(len(waveform), MAX_COLUMNS, 2 * width)),
        picture=_spectrogram(features),
        labels=Markup("").join(labels),
        ticks=_ticks(seconds, y=axis),
    )


def _tooltip(word: Word) -> str:
    return f"{word.start:.2f}-{word.end:.2f} s, {100 * word.confidence:.0f} %"


def _text_width(text: str) -> float:
    """Return the approximate width in pixels; Han characters are as wide as high."""
    return 8 + sum(14 if ord(character) > 0x2E7F else 7.5 for character in text)


def _centre(word: Word, *, width: int, seconds: float) -> float:
    """Return the centre of a word's label in pixels of the narrowest timeline: below its word, inside the edges."""
    half = _text_width(word.word) / 2
    return max(half, min(width - half, (word.start + word.end) / 2 / seconds * width))


def _rows(words: Sequence[Word], *, width: int, seconds: float) -> list[int]:
    """Return the row of each label: the first without an overlap, or the one that is free first."""
    free_from, rows = [0.0] * ROWS, []
    for word in words:
        centre, half = _centre(word, width=width, seconds=seconds), _text_width(word.word) / 2
        fitting = [row for row in range(ROWS) if free_from[row] <= centre - half]
        row = fitting[0] if fitting else int(np.argmin(free_from))
        free_from[row] = centre + half
        rows.append(row)
    return rows


def _label(word: Word, row: int, *, top: int, width: int, seconds: float) -> Markup:
    """Return a light bar over the word's time, a bar with the colour of its confidence below, and the word."""
    start, duration = 100 * word.start / seconds, max(100 * (word.end - word.start) / seconds, 0.1)
    return Markup(
        '<g><title>{name} {tooltip}</title><rect class="asr-span" x="{x:.2f}%" width="{w:.2f}%" height="{top}"/>'
        '<rect class="asr-{level}" x="{x:.2f}%" width="{w:.2f}%" y="{top}" height="6"/>'
        '<text x="{centre:.2f}%" y="{y}" text-anchor="middle">{name}</text></g>'
    ).format(
        name=word.word,
        tooltip=_tooltip(word),
        x=start,
        w=duration,
        top=top,
        level=level(word.confidence),
        centre=100 * _centre(word, width=width, seconds=seconds) / width,
        y=top + 4 + ROW_HEIGHT * (row + 1) - 6,
    )


def _ticks(seconds: float, *, y: int) -> Markup:
    """Return the labels of the time axis: every second, or every half second in short recordings."""
    step = 0.5 if seconds < 4 else 1
    return Markup("").join(
        Markup('<text class="asr-axis" x="{:.2f}%" y="{}">{:g} s</text>').format(100 * time / seconds, y, time)
        for time in np.arange(0, max(seconds - 0.2, 0.1), step)
    )


def _outline(waveform: np.ndarray, *, columns: int) -> str:
    """Return an SVG path along the maxima of all columns and back along the minima, scaled to the peak."""
    starts = np.linspace(0, len(waveform), columns, endpoint=False).astype(int)
    peak = max(float(np.abs(waveform).max()), 1e-3)
    high = np.maximum.reduceat(waveform, starts) / peak
    low = np.minimum.reduceat(waveform, starts) / peak
    # Silence is drawn as a thin line.
    upper = [f"{x} {-y:.3f}" for x, y in enumerate(np.maximum(high, 0.012))]
    lower = [f"{x} {-y:.3f}" for x, y in reversed(list(enumerate(np.minimum(low, -0.012))))]
    return "M" + "L".join(upper + lower) + "Z"


def _spectrogram(features: np.ndarray) -> str:
    """Return a PNG data URI with low frequencies at the bottom; a long spectrogram shows every n-th frame."""
    shown = features[:: -(-len(features) // MAX_COLUMNS)].T
    low, high = np.quantile(shown, [0.02, 0.998])
    file = io.BytesIO()
    matplotlib.image.imsave(file, shown, vmin=low, vmax=max(high, low + 1), cmap="magma", origin="lower", format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
