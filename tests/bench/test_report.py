"""Tables say what the committed results say."""

from bench import report


def test_every_table_in_the_documents_is_up_to_date():
    assert report.main(["--check"]) == 0


def test_a_changed_figure_is_noticed():
    text = (report.ROOT / "README.md").read_text()
    figure = report.percent(report.read("real_pairs.json")["pairs"][0]["endpoints"][0])
    assert report.fill(text.replace(figure, "99.99")) != text.replace(figure, "99.99")
