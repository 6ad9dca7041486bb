"""The tables of what passes that were killed, and files that were damaged, came to."""

from __future__ import annotations

from bench.tables.results import read, source, table

SOAK, FUZZ = "soak.json", "fuzz.json"


def soak() -> str:
    """Return what came of passes that were killed again and again, a line for each kind."""
    file = read(SOAK)
    lines = [
        [
            row["kind"],
            str(row["rounds"]),
            f"{row['kills']:,}",
            f"{row['kills_of_one_rank']:,}",
            f"{row['killed_while_writing']:,}",
            f"{row['resumes']:,}",
            f"{row['images']:,}",
            str(row["lost"]),
            str(row["doubled"]),
            f"{row['identical']} of {row['rounds']}",
        ]
        for row in file["rows"]
    ]
    head = ["data", "rounds", "kills", "of one rank", "during a write", "gone on"]
    head += ["images", "lost", "doubled", "same bits"]
    told = f"{file['minutes']:.0f} minutes."
    return "\n".join([table(head, lines), "", told, "", source(file)])


def fuzz() -> str:
    """Return what came of damaged and hostile files, a line for each reader."""
    file = read(FUZZ)
    lines = [
        [
            row["reader"],
            f"{row['files']:,}",
            f"{row['read']:,}",
            f"{row['refused']:,}",
            str(len(row["faults"])),
        ]
        for row in file["rows"]
    ]
    return "\n".join(
        [table(["reader", "files", "read", "refused", "faults"], lines), "", source(file)]
    )
