"""Tables say what the committed results say."""

import json

from bench import report, soak
from bench.tables import pairs, results, robustness


def test_every_table_in_the_documents_is_up_to_date():
    assert report.main(["--check"]) == 0


def test_a_changed_figure_is_noticed():
    text = (report.ROOT / "README.md").read_text()
    figure = pairs.percent(results.read("real_pairs.json")["pairs"][0]["endpoints"][0])
    assert report.fill(text.replace(figure, "99.99")) != text.replace(figure, "99.99")


def test_the_table_of_kills_has_a_line_for_each_kind(tmp_path, monkeypatch):
    where = json.loads((report.ROOT / "bench" / "results" / "soak.json").read_text())
    counts = dict.fromkeys((*soak.KILLS, *soak.SUMS), 0)
    rounds = [{"kind": kind, **counts, "kills": 7, "identical": True} for kind in soak.KINDS]
    rows = soak.by_kind([*rounds, *rounds])
    (tmp_path / "soak.json").write_text(json.dumps({**where, "minutes": 30.1, "rows": rows}))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    text = robustness.soak()
    for kind in soak.KINDS:
        assert f"| {kind} | 2 | 14 | 0 | 0 | 0 | 0 | 0 | 0 | 2 of 2 |" in text
    assert "30 minutes." in text
