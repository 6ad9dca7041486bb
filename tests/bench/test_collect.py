"""A run's benches become one file of rows, which the tables read."""

import json

from bench import collect
from bench.tables import performance, results

CASE = {
    "op": "paired_moments",
    "name": "resnet50.conv1[64x64x112x112]",
    "dtype": "bf16",
    "layout": "nchw",
    "form": "cross",
}
RUN = {
    "device": "NVIDIA H100 80GB HBM3",
    "versions": {"torch": "2.11.0"},
    "commit": "0" * 40,
    "command": "bench/gpu.sh OUTDIR paired",
    "date": "2026-01-31",
    "stages": [],
}


def test_rows_of_all_benches_are_gathered_and_found_by_the_tables(tmp_path, monkeypatch):
    info = {"case": CASE, "providers": {"ours": {"device_seconds": 3e-5}, "bad": {"error": 1.0}}}
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "paired.json").write_text(json.dumps({"benchmarks": [{"extra_info": info}]}))
    (tmp_path / "errors_gpu.json").write_text(json.dumps({"rows": []}))
    assert collect.main([str(tmp_path)]) == 0
    written = tmp_path / "nvidia-h100-80gb-hbm3-2026-01-31.json"
    assert json.loads(written.read_text())["rows"] == [info]
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    place = ("NVIDIA H100", *CASE.values())
    assert performance.measured() == {place: {"ours": 3e-5}}
    assert "| 30 |" in performance.providers()


def test_without_rows_nothing_is_written(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    assert collect.main([str(tmp_path)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_bench_that_was_killed_does_not_cost_the_others_their_rows(tmp_path, capsys):
    info = {"case": CASE, "providers": {}}
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "joint.json").write_text('{"benchmarks": [')
    (tmp_path / "paired.json").write_text(json.dumps({"benchmarks": [{"extra_info": info}]}))
    assert collect.main([str(tmp_path)]) == 0
    assert "joint.json: not whole" in capsys.readouterr().out
    assert (tmp_path / "nvidia-h100-80gb-hbm3-2026-01-31.json").exists()
