"""Read WeNet's `units.txt` and its sentencepiece model as a tokenizer with the same ids."""

import logging
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import import_protobuf

from ..model import ConformerTokenizer
from ..model.tokenization_conformer import (
    NO_SPACES_AT_HAN,
    SPACE,
    character_backend,
    splits_special_tokens,
    text_normalizer,
)

logger = logging.getLogger(__name__)


def find_pieces(wenet_dir: Path, bpe_path: str | None) -> Path | None:
    """Return the sentencepiece model that the recipe names, else the only one in the folder, or None.

    Raises:
        ValueError: The folder has several models, and the recipe names none of them.
    """
    if (
        bpe_path and (wenet_dir / Path(bpe_path).name).is_file()
    ):  # released recipes contain the path on their author's disk
        return wenet_dir / Path(bpe_path).name
    found = sorted(wenet_dir.glob("*.model"))
    if len(found) > 1:
        raise ValueError(
            f"{wenet_dir} has {len(found)} sentencepiece models: keep only the one that belongs to units.txt"
        )
    return found[0] if found else None


def read_units(path: Path) -> dict[str, int]:
    """Return units and their ids, which count from 0 without a gap. Blank lines are ignored.

    Raises:
        ValueError: A line is malformed, a unit or an id occurs twice, or an id is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error
    units: dict[str, int] = {}
    names: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would split at U+2028 as well
        if not (fields := line.split()):
            continue
        if len(fields) != 2 or not re.fullmatch("[0-9]+", fields[1]):
            raise ValueError(f"{path}, line {number}: a line must be a unit, a space or tab, and its id, not {line!r}")
        unit, place = SPACE if fields[0] == "<space>" else fields[0], int(fields[1])
        if unit in units or place in names:
            other = unit if unit in units else names[place]
            raise ValueError(f"{path}, line {number}: {unit!r} has id {place}, but {other!r} has id {units[other]}")
        units[unit], names[place] = place, unit
    missing = next(place for place in range(len(names) + 1) if place not in names)
    if not names or missing < len(names):
        raise ValueError(f"{path}: ids must count from 0 without a gap, and no unit has id {missing}")
    if units.get("<blank>", 0) != 0:
        raise ValueError(f"{path}: <blank> has id {units['<blank>']}, but only a blank of id 0 can be imported")
    return units


def read_tokenizer(
    vocabulary: dict[str, int],
    *,
    special_tokens: dict[str, int] | None = None,
    pieces: Path | None = None,
    text_normalization: str = "none",
) -> ConformerTokenizer:
    """Make a tokenizer with the units and ids of `units.txt`.

    Args:
        special_tokens: Ids of special tokens in the recipe. By default, `<unk>` is the unit of this name and
            `<sos/eos>` the last unit.
        pieces: The sentencepiece model that splits transcripts into units of several characters. Without it, a model
            with such units can transcribe, but its fine-tuning needs a new vocabulary.
        text_normalization: Rule of the tokenizer.

    Raises:
        ValueError: A special token has no unit, `<sos>` is another token than `<eos>`, or `pieces` is not a
            sentencepiece model.
    """
    names = {place: token for token, place in vocabulary.items()}
    special_tokens = special_tokens or {}
    for token, place in special_tokens.items():
        if place not in names:
            raise ValueError(f"units.txt has no id {place}, which train.yaml's special_tokens give to {token}")
    unknown_id = special_tokens.get("<unk>", vocabulary.get("<unk>"))
    if unknown_id is None:
        raise ValueError("units.txt has no <unk>: give it an id in train.yaml (tokenizer_conf, special_tokens)")
    sos, eos = (special_tokens.get(token, max(names)) for token in ("<sos>", "<eos>"))
    if sos != eos and "<sos>" in special_tokens:
        raise ValueError(
            f"train.yaml: tokenizer_conf.special_tokens has <sos>: {sos} and <eos>: {eos}, but only one token for both "
            "can be imported"
        )
    sos_eos, unknown = names[eos], names[unknown_id]
    are_pieces = any(len(token) > 1 and not re.fullmatch(r"<.+>|\[.+\]", token) for token in vocabulary)
    if are_pieces and pieces is not None:
        tokenizer = _piece_tokenizer(vocabulary, unknown, pieces)
    else:
        if are_pieces:
            logger.warning(
                "units.txt has units of several characters, and there is no sentencepiece .model beside it: the model "
                "can transcribe, but fine-tuning it needs --vocabulary new"
            )
        tokenizer = character_backend(vocabulary, unknown=unknown)
    tokenizer.normalizer = text_normalizer(text_normalization)
    if are_pieces:  # WeNet converts such text to capitals, and its pieces have no space next to Han
        tokenizer.normalizer = normalizers.Sequence([tokenizer.normalizer, NO_SPACES_AT_HAN])
    return ConformerTokenizer(
        tokenizer_object=tokenizer,
        pad_token=names[0],
        unk_token=unknown,
        bos_token=sos_eos,
        eos_token=sos_eos,
        clean_up_tokenization_spaces=False,
        text_normalization=text_normalization,
        **({"in_capitals": True} if are_pieces else {}),
    )


def _piece_tokenizer(vocabulary: dict[str, int], unknown: str, path: Path) -> Tokenizer:
    """Return a tokenizer that splits text as WeNet does: each Han character alone, other text by sentencepiece.

    Raises:
        ValueError: The file is not a sentencepiece model of the type BPE or unigram.
    """
    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, which this package does not depend on
        raise ValueError(f"{path} is not a sentencepiece model: {error}") from error
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == 1}  # normal pieces
    if proto.trainer_spec.model_type == 1:
        lowest = min(scores.values(), default=0.0)
        ordered = sorted(vocabulary, key=vocabulary.get)
        model = models.Unigram([(token, scores.get(token, lowest)) for token in ordered], vocabulary[unknown])
    elif proto.trainer_spec.model_type == 2:
        # Pieces that only occur as steps to longer ones are not in units.txt; they get ids after those of the model.
        steps = [piece for piece in scores if piece not in vocabulary]
        vocabulary = vocabulary | {piece: max(vocabulary.values()) + 1 + i for i, piece in enumerate(steps)}
        merges = sorted(
            (-scores[piece], piece[:cut], piece[cut:])
            for piece in scores
            for cut in range(1, len(piece))
            if piece[:cut] in scores and piece[cut:] in scores
        )
        model = models.BPE(vocabulary, [(left, right) for _, left, right in merges], unk_token=unknown, fuse_unk=True)
    else:
        raise ValueError(f"{path}: only sentencepiece models of the types BPE and unigram are supported")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[一-鿿]"), "isolated"),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(rf"{SPACE}(?=[一-鿿])"), "removed"),
            splits_special_tokens(token for token in vocabulary if re.fullmatch(r"<.+>", token)),
        ]
    )
    return tokenizer
