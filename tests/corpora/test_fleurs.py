"""FLEURS: tables without a header."""

import dataclasses

from hf_asr.corpora.corpus import Archive
from hf_asr.corpora.fleurs import CORPUS
from hf_asr.corpora.prepare import prepare

from .published import loaded, pack, write_noise, write_text


def test_tables_without_a_header(serve, tmp_path):
    for part in ("train", "dev", "test"):
        row = "1\t100.wav\t请打开灯。\t请 打 开 灯\t请 | 打\t4800\tFEMALE"
        write_text(
            tmp_path / "raw/cmn_hans_cn" / f"{part}.tsv", row, "2\t101.wav\tan old line", row.replace("100", "102")
        )
        write_noise(tmp_path / "raw/cmn_hans_cn/audio" / part / "100.wav")
    content = pack(tmp_path / "x.tgz", tmp_path / "raw").read_bytes()
    with serve({"cmn_hans_cn.tar.gz": content}) as server:
        corpus = dataclasses.replace(CORPUS, archives=(Archive(f"{server.url}/{{language}}.tar.gz"),))
        summary = prepare(corpus, tmp_path / "out", language="cmn_hans_cn")
    assert loaded(tmp_path / "out", "dev") == {"100": ("请 打 开 灯", None, 0.3)}
    skipped = (tmp_path / "out/skipped.jsonl").read_text()
    assert summary["skipped"] == 6 and "3 columns instead of 7" in skipped and "102" in skipped
