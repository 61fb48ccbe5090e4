"""Describe which rows of a split were scored; metrics.json stores this as `selection`."""

from typing import Any


def is_partial(metrics: dict[str, Any]) -> bool:
    """Return whether only some speakers were scored, so that the score is not the score of the split."""
    return "speakers" in (metrics.get("selection") or {})


def describe_selection(metrics: dict[str, Any]) -> str:
    """Return the selection in words, such as "1 of 6 speakers"; empty for a whole split."""
    if "selection" not in metrics:
        return "not recorded whether all of it"
    choice, words = dict(metrics["selection"] or {}), []
    if (share := choice.pop("held_out_share", None)) is not None:
        by, seed = choice.pop("by", None), choice.pop("seed", None)
        how = ", ".join([*([f"by {by}"] if by else []), *([] if seed is None else [f"seed {seed}"])])
        words.append(f"{100 * share:g} % held out of training" + (f" ({how})" if how else ""))
    if count := choice.pop("excluded_speakers", None):
        words.append(f"without {count} speaker{'' if count == 1 else 's'}")
    if (chosen := choice.pop("speakers", None)) is not None:
        words.append(f"{chosen} of {choice.pop('of', '?')} speakers")
    return ", ".join([*words, *(f"{name.replace('_', ' ')}: {value}" for name, value in choice.items())])
