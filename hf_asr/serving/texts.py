"""What the demo says, in English and Chinese."""

import gradio as gr
from gradio.i18n import I18nData

ENGLISH = {
    "title": "Speech recognition",
    "intro": "# Speech recognition\n\n"
    "Record or upload speech, and see what the model heard, when, and how sure it is. Nothing leaves the "
    "machine that this page comes from; recordings are deleted within half an hour.",
    "checkpoint": "Checkpoint:",
    "recognise_tab": "Recognise",
    "compare_tab": "Compare two checkpoints",
    "compare_intro": "The same recording through two checkpoints, side by side.",
    "audio": "Speech, up to 5 minutes",
    "denoise": "Reduce noise first",
    "denoise_info": "Against a steady hum or hiss. A checkpoint that was trained without it may hear worse.",
    "recognise": "Recognise",
    "compare": "Compare",
    "second": "Second checkpoint",
    "second_info": "A folder on this machine, or a Hub id",
    "examples": "Or try one of these (spoken by espeak-ng)",
    "text": "Text",
    "result_hint": "The words, their times and a picture of the sound will stand here.",
    "words": "Words",
    "confidence": "confidence in %",
    "picture": "Waveform and log-mel spectrogram, the words under their times",
    "subtitles": "Subtitles",
    "facts": "{seconds:.1f} s of audio, recognised in {taken:.2f} s",
    "missing_audio": "There is no recording yet. Record something, upload a file or choose an example.",
    "unreadable": "This file holds no audio that can be read. wav, flac, mp3, m4a, ogg, opus and webm are understood.",
    "too_long": "The recording lasts longer than 5 minutes. Cut it and try again.",
    "silent": "The recording is silent. Is the microphone muted, or another one chosen?",
    "no_words": "No words were recognised. Speak closer to the microphone, or try the noise reduction.",
    "missing_second": "Name a second checkpoint to compare with.",
    "bad_second": "The second checkpoint cannot be loaded: {reason}",
    "same": "Both heard the same words.",
    "different": "They differ in the framed words.",
    "mean_confidence": "mean confidence",
    "taken": "time taken",
    "faster": "{taken:.3f} s, {speed:.0f} times faster than speech",
    "nothing_heard": "(no words)",
}

CHINESE = {
    "title": "语音识别",
    "intro": "# 语音识别\n\n"
    "录音或上传音频，查看模型听到了什么、在什么时间、有多大把握。"
    "数据不会离开提供本页面的机器；录音会在半小时内删除。",
    "checkpoint": "模型：",
    "recognise_tab": "识别",
    "compare_tab": "比较两个模型",
    "compare_intro": "同一段录音，并排比较两个模型的结果。",
    "audio": "语音（不超过 5 分钟）",
    "denoise": "先降噪",
    "denoise_info": "适用于持续的嗡嗡声或嘶嘶声。训练时未降噪的模型可能反而听得更差。",
    "recognise": "识别",
    "compare": "比较",
    "second": "第二个模型",
    "second_info": "本机上的文件夹，或 Hub 上的 id",
    "examples": "或者试试这些例子（由 espeak-ng 合成）",
    "text": "文本",
    "result_hint": "识别出的词、时间和声音的图像会显示在这里。",
    "words": "词",
    "confidence": "置信度（%）",
    "picture": "波形与对数梅尔频谱，词标在其时间之下",
    "subtitles": "字幕",
    "facts": "音频 {seconds:.1f} 秒，识别用时 {taken:.2f} 秒",
    "missing_audio": "还没有音频。请录音、上传文件或选择一个例子。",
    "unreadable": "无法从此文件读取音频。支持 wav、flac、mp3、m4a、ogg、opus 和 webm。",
    "too_long": "录音超过 5 分钟。请截短后再试。",
    "silent": "录音中没有声音。麦克风是否静音，或选错了设备？",
    "no_words": "没有识别出词。请靠近麦克风说话，或试试降噪。",
    "missing_second": "请填写要比较的第二个模型。",
    "bad_second": "无法加载第二个模型：{reason}",
    "same": "两个模型听到的词相同。",
    "different": "加框的词是两者不同之处。",
    "mean_confidence": "平均置信度",
    "taken": "用时",
    "faster": "{taken:.3f} 秒，比说话快 {speed:.0f} 倍",
    "nothing_heard": "（没有词）",
}

# Gradio's page speaks a browser's language if it knows precisely this tag, and English otherwise.
_CHINESE_TAGS = ("zh-CN", "zh-TW")
TEXTS = {"en": ENGLISH, **dict.fromkeys(_CHINESE_TAGS, CHINESE)}
# Gradio's page has words of its own under keys like "audio".
I18N = gr.I18n(**{tag: {f"asr_{key}": text for key, text in texts.items()} for tag, texts in TEXTS.items()})


def translate(key: str) -> I18nData:
    """A text that the page shows in its language."""
    return I18N(f"asr_{key}")


def language_texts(request: gr.Request | None) -> dict[str, str]:
    """What is said in the language that the page of this request is in; English outside of a browser."""
    accepted = "" if request is None else request.headers.get("accept-language", "")
    first = accepted.split(",")[0].split(";")[0].strip()
    return TEXTS.get(first, ENGLISH)
