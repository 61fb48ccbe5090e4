"""Check the division of espeak-ng's events among the words of a text, with events that are written by hand."""

from hf_asr.data.espeak_words import Event, spoken_words

# Phonemes of a word alone, as many as its letters.
LETTERS = {"count_phonemes": len}


def events(*words: tuple[int, str], step: int = 100) -> list[Event]:
    """Return an event for each word, given as its place and its phonemes, each phoneme, and the end of the text."""
    found, sample = [], 0
    for place, phonemes in words:
        found.append(Event(sample, place, ""))
        for phoneme in phonemes.split():
            found.append(Event(sample, place, phoneme))
            sample += step
    return [*found, Event(sample, 99, "")]


def test_a_word_is_from_its_first_phoneme_to_the_event_after_its_last_one():
    closure = [Event(0, 0, ""), Event(50, 0, "t"), Event(90, 0, "u"), Event(200, 0, "_:"), Event(300, 4, "")]
    closure += [Event(340, 4, "t"), Event(400, 4, "i"), Event(500, 4, "_:"), Event(520, 5, "")]
    assert spoken_words("two tea", closure, **LETTERS) == [("two", 50, 200), ("tea", 340, 500)]


def test_a_han_character_is_a_word():
    found = spoken_words("打开wifi 吧", events((0, "d a"), (1, "k ai"), (2, "w ai f ai"), (7, "b a")), **LETTERS)
    assert found == [("打", 0, 200), ("开", 200, 400), ("wifi", 400, 800), ("吧", 800, 1000)]


def test_all_events_inside_a_word_are_its_own():
    assert spoken_words("12 no", events((0, "t"), (1, "w e"), (3, "n")), **LETTERS) == [
        ("12", 0, 300),
        ("no", 300, 400),
    ]


def test_words_that_are_spoken_as_one_are_divided_by_their_numbers_of_phonemes():
    assert spoken_words("on the", events((0, "o n d h e")), **LETTERS) == [("on", 0, 200), ("the", 200, 500)]


def test_words_that_cannot_be_divided_are_left_out():
    found = spoken_words("an out of it", events((0, "a n"), (3, "a u t o"), (10, "i t")), **LETTERS)
    assert [word for word, *_ in found] == ["an", "it"]


def test_words_that_are_not_spoken_are_left_out():
    silent = {"count_phonemes": lambda word: 0 if word == "-" else len(word)}
    assert spoken_words("no - no", events((0, "n o"), (5, "n o")), **silent) == [("no", 0, 200), ("no", 200, 400)]
    assert spoken_words("?", [Event(0, 0, ""), Event(10, 0, "_:")], **silent) == []


def test_the_glide_to_the_next_word_belongs_to_the_phoneme_before_it():
    found = spoken_words("on the air", events((0, "o n d h e ;"), (7, "a i r")), **LETTERS)
    assert found == [("on", 0, 200), ("the", 200, 600), ("air", 600, 900)]


def test_a_change_of_the_language_is_no_phoneme():
    assert spoken_words("a b", events((0, "(en) a (zh)"), (2, "b")), **LETTERS) == [("a", 100, 200), ("b", 300, 400)]


def test_there_are_no_words_if_a_place_is_wrong():
    """espeak-ng does not count the full stops of "one. sea. tea": a place is between words, or not at a beginning."""
    assert spoken_words("a. sea. tea", events((0, "a"), (3, "s e a"), (7, "t e a")), **LETTERS) == []
    assert spoken_words("a. b. tea", events((0, "a"), (2, "b"), (4, "t e a")), **LETTERS) == []
    assert spoken_words("sea tea", events((1, "s e a"), (4, "t e a")), **LETTERS) == []
    assert spoken_words("(sea) tea", events((1, "s e a"), (6, "t e a")), **LETTERS) == [
        ("(sea)", 0, 300),
        ("tea", 300, 600),
    ]
