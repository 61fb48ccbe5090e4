"""Check that every row of a source is used or reported, with its text as it was written."""

import csv
import io
import json
import tarfile
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings

from hf_asr.data.inspection import inspect
from hf_asr.data.sources import Source
from hf_asr.families import required_samples

# Characters of real transcripts, and those that break readers: quotes, separators, marks, other scripts, numbers.
TEXTS = st.text(
    st.one_of(
        st.sampled_from(" \"',;|\t\u2028\u0085\ufeff<>#%01.9aé你の"), st.characters(exclude_categories=["Cs", "Cc"])
    ),
    max_size=12,
)
ROWS = st.lists(st.tuples(st.sampled_from(["good", "broken", "missing"]), TEXTS), min_size=1, max_size=6)
SEPARATED = {"csv": ",", "tsv": "\t"}


def write(folder, kind: str, rows: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """Write a source of `rows` (recording, text); return its name and the texts that it should contain."""
    texts = [text for _, text in rows]
    path = folder / f"m.{kind}"
    if kind in ("jsonl", "json"):
        entries = [json.dumps({"audio": f"{name}.wav", "text": text}) for name, text in rows]
        path.write_text("[" + ",".join(entries) + "]" if kind == "json" else "\n".join(entries), encoding="utf-8")
    elif kind == "csv":
        table = io.StringIO()
        csv.writer(table).writerows([("audio", "text"), *((f"{name}.wav", text) for name, text in rows)])
        path.write_text(table.getvalue(), encoding="utf-8", newline="")
    elif kind == "tsv":
        texts = [text.replace("\t", " ") for text in texts]
        lines = [f"{name}.wav\t{text}" for (name, _), text in zip(rows, texts, strict=True)]
        path.write_text("\n".join(["audio\ttext", *lines]), encoding="utf-8")
    elif kind == "list":
        path = folder / "data.list"
        entries = [
            json.dumps({"key": str(i), "wav": f"{name}.wav", "txt": text}) for i, (name, text) in enumerate(rows)
        ]
        path.write_text("\n".join(entries), encoding="utf-8")
    elif kind == "kaldi":
        texts = [text.strip(" \t") for text in texts]
        path = folder
        (folder / "wav.scp").write_text("".join(f"u{i} {name}.wav\n" for i, (name, _) in enumerate(rows)))
        lines = (f"u{i} {text}\n" for i, text in enumerate(texts))
        (folder / "text").write_text("".join(lines), encoding="utf-8")
    elif kind == "tar":
        texts = [text.strip() for text in texts]
        wavs = {name: (folder / f"{name}.wav").read_bytes() for name in ("good", "broken")}
        with tarfile.open(path, "w") as shard:
            for i, ((name, _), text) in enumerate(zip(rows, texts, strict=True)):
                for suffix, content in ((".wav", wavs.get(name)), (".txt", text.encode())):
                    if content is not None:
                        member = tarfile.TarInfo(f"{i}.5{suffix}")
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
    return str(path), [text.removeprefix("\ufeff") if kind == "tar" else text for text in texts]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "list", "kaldi", "tar"])
def test_every_row_is_used_or_reported(kind, processor, tiny_model, tmp_path_factory):
    sound = np.full(16000, 0.1, np.float32)

    @given(ROWS)
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(rows):
        folder = tmp_path_factory.mktemp("source")
        soundfile.write(folder / "good.wav", sound, 16000)
        (folder / "broken.wav").write_bytes(b"no audio")
        name, texts = write(folder, kind, rows)
        loaded = Source(name).load("train")
        assert loaded["text"][:] == texts
        assert len(set(loaded["utterance_id"])) == len(rows)
        options = {"processor": processor, "max_duration_seconds": 30}
        options["required_samples"] = partial(required_samples, config=tiny_model.config)
        found = inspect(loaded, split="train", show_progress=False, **options)
        named = [finding.row for finding in found.findings if finding.is_skipped]
        assert sorted(found.kept + named) == list(range(len(rows)))
        assert all(rows[i][0] == "good" for i in found.kept)
        assert all(finding.reason == "unreadable audio" for finding in found.findings if rows[finding.row][0] != "good")
        streamed = list(Source(name).load("train", streaming=True))
        assert [row["text"] for row in streamed] == texts

    check()
