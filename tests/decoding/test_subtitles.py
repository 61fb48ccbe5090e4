from hf_asr.decoding.subtitles import cues, join_words, to_srt, to_vtt
from hf_asr.decoding.transcript import Word

WORDS = [Word("hello", 0.0, 0.4), Word("world", 0.5, 0.9), Word("打", 3.0, 3.2), Word("开", 3.2, 3.4)]


def test_a_line_ends_at_a_pause_and_before_it_is_too_long():
    assert cues(WORDS) == [(0.0, 0.9, "hello world"), (3.0, 3.4, "打开")]
    assert len(cues(WORDS, max_characters=5)) == 3
    assert len(cues(WORDS, max_gap_seconds=10, max_seconds=1.0)) == 2


def test_han_characters_are_joined_without_spaces():
    assert join_words([Word("ok", 0, 1), *WORDS[2:], Word("wifi", 4, 5)]) == "ok打开wifi"


def test_srt_and_vtt_formats():
    assert to_srt(WORDS) == (
        "1\n00:00:00,000 --> 00:00:00,900\nhello world\n\n2\n00:00:03,000 --> 00:00:03,400\n打开\n"
    )
    assert to_vtt([Word("late", 3661.5, 3662.0)]) == "WEBVTT\n\n01:01:01.500 --> 01:01:02.000\nlate\n"


def test_text_that_looks_like_the_format_is_escaped():
    words = [Word("a-->b", 0.0, 0.4), Word("<i>&", 0.5, 0.9), Word("two\n\nlines", 1.0, 1.4), Word(" ", 1.4, 1.5)]
    srt, vtt = to_srt(words), to_vtt(words)
    assert srt == "1\n00:00:00,000 --> 00:00:01,400\na→b <i>& two lines\n"
    assert vtt == "WEBVTT\n\n00:00:00.000 --> 00:00:01.400\na--&gt;b &lt;i&gt;&amp; two lines\n"
