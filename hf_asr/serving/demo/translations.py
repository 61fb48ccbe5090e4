"""The demo's texts in English and Chinese."""

import gradio as gr
from gradio.i18n import I18nData

from .live import live_page

ENGLISH = {
    "title": "Speech recognition",
    "intro": "# Speech recognition\n\n"
    "Record or upload speech. The page shows the recognised words with their times and confidence. Recordings stay "
    "on the machine that serves this page and are deleted within half an hour.",
    "checkpoint": "Checkpoint:",
    "recognise_tab": "Recognise",
    "live_tab": "Live",
    "live_start": "Start",
    "live_stop": "Stop",
    "live_hint": "Press Start and speak. The text appears while you speak. The sound is not stored.",
    "live_starting": "Connecting …",
    "live_listening": "Listening",
    "live_finishing": "Recognising the last words …",
    "live_insecure": "Browsers give the microphone only to pages with https, and to pages of this machine.",
    "live_denied": "The browser gave no microphone. Is one connected, and is this page allowed to use it?",
    "live_busy": "Too many people are using live text. Try again in a moment.",
    "live_lost": "The connection to the server is lost.",
    "compare_tab": "Compare two checkpoints",
    "compare_intro": "Compare the words of two checkpoints for the same recording, side by side.",
    "audio": "Speech, up to 5 minutes",
    "denoise": "Reduce noise first",
    "denoise_info": "Use it for a steady hum or hiss. A checkpoint that was trained without it may make more errors.",
    "hotwords": "Hotwords",
    "hotwords_info": "Names and terms that may occur, with commas between them",
    "bad_hotwords": "The hotwords cannot be used: {reason}",
    "recognise": "Recognise",
    "compare": "Compare",
    "second": "Second checkpoint",
    "second_info": "A folder on this machine or a Hub id",
    "examples": "Or try an example (spoken by espeak-ng)",
    "text": "Text",
    "result_hint": "The words, their times and the spectrogram will appear here.",
    "words": "Words",
    "confidence": "confidence in %",
    "timeline": "Waveform and log-mel spectrogram, with the words below their times",
    "subtitles": "Subtitles",
    "facts": "{seconds:.1f} s of audio, recognised in {taken:.2f} s",
    "missing_audio": "There is no recording yet. Record, upload a file or choose an example.",
    "unreadable": "This file has no readable audio. Supported formats include wav, flac, mp3, m4a, ogg, opus and webm.",
    "too_long": "The recording is longer than 5 minutes. Shorten it and try again.",
    "silent": "The recording is silent. Is the microphone muted, or is another one selected?",
    "no_words": "No words were recognised. Speak closer to the microphone, or try the noise reduction.",
    "missing_second": "Enter a second checkpoint to compare with.",
    "bad_second": "The second checkpoint cannot be loaded: {reason}",
    "same": "Both checkpoints recognised the same words.",
    "different": "The framed words differ.",
    "mean_confidence": "mean confidence",
    "taken": "time taken",
    "speed": "{taken:.3f} s, {speed:.0f} times as fast as real time",
    "empty": "(no words)",
}

CHINESE = {
    "title": "语音识别",
    "intro": "# 语音识别\n\n"
    "录音或上传音频，页面会显示识别出的词及其时间和置信度。"
    "录音只保存在提供本页面的机器上，并在半小时内删除。",
    "checkpoint": "模型：",
    "recognise_tab": "识别",
    "live_tab": "实时识别",
    "live_start": "开始",
    "live_stop": "停止",
    "live_hint": "点击“开始”并说话，文字会随说随出。声音不会被保存。",
    "live_starting": "正在连接……",
    "live_listening": "正在聆听",
    "live_finishing": "正在识别最后的词……",
    "live_insecure": "浏览器只允许 https 页面和本机页面使用麦克风。",
    "live_denied": "浏览器没有提供麦克风。是否已连接麦克风，并允许本页面使用？",
    "live_busy": "使用实时识别的人太多，请稍后再试。",
    "live_lost": "与服务器的连接已断开。",
    "compare_tab": "比较两个模型",
    "compare_intro": "并排比较两个模型对同一段录音的识别结果。",
    "audio": "语音（不超过 5 分钟）",
    "denoise": "先降噪",
    "denoise_info": "适用于持续的嗡嗡声或嘶嘶声。如果模型训练时没有降噪，识别错误可能增多。",
    "hotwords": "热词",
    "hotwords_info": "可能出现的人名和术语，用逗号分隔",
    "bad_hotwords": "无法使用热词：{reason}",
    "recognise": "识别",
    "compare": "比较",
    "second": "第二个模型",
    "second_info": "本机上的文件夹，或 Hub 上的 id",
    "examples": "或者试试这些例子（由 espeak-ng 合成）",
    "text": "文本",
    "result_hint": "识别出的词、时间和频谱图会显示在这里。",
    "words": "词",
    "confidence": "置信度（%）",
    "timeline": "波形与对数梅尔频谱，词标在对应时间的下方",
    "subtitles": "字幕",
    "facts": "音频 {seconds:.1f} 秒，识别用时 {taken:.2f} 秒",
    "missing_audio": "还没有音频。请录音、上传文件或选择一个例子。",
    "unreadable": "无法从此文件读取音频。支持 wav、flac、mp3、m4a、ogg、opus、webm 等格式。",
    "too_long": "录音超过 5 分钟。请截短后再试。",
    "silent": "录音中没有声音。麦克风是否静音，或选错了设备？",
    "no_words": "没有识别出词。请靠近麦克风说话，或试试降噪。",
    "missing_second": "请填写要比较的第二个模型。",
    "bad_second": "无法加载第二个模型：{reason}",
    "same": "两个模型识别出的词相同。",
    "different": "加框的词是两者的不同之处。",
    "mean_confidence": "平均置信度",
    "taken": "用时",
    "speed": "{taken:.3f} 秒，速度是实时的 {speed:.0f} 倍",
    "empty": "（没有词）",
}

# Gradio's page has the browser's language only if it knows exactly this tag, and is English otherwise.
_CHINESE_TAGS = ("zh-CN", "zh-TW")
TEXTS = {"en": ENGLISH, **dict.fromkeys(_CHINESE_TAGS, CHINESE)}
# The prefix avoids conflicts with Gradio's own keys, such as "audio". Gradio replaces one key of a component's HTML
# only, so the HTML with many texts is a text itself.
I18N = gr.I18n(
    **{
        tag: {f"asr_{key}": text for key, text in (texts | {"live_page": live_page(texts)}).items()}
        for tag, texts in TEXTS.items()
    }
)


def translate(key: str) -> I18nData:
    """Return a text that the page shows in the browser's language."""
    return I18N(f"asr_{key}")


def language_texts(request: gr.Request | None) -> dict[str, str]:
    """Return the texts in the language of the page that sent this request; English for programs."""
    accepted = "" if request is None else request.headers.get("accept-language", "")
    first = accepted.split(",")[0].split(";")[0].strip()
    return TEXTS.get(first, ENGLISH)
