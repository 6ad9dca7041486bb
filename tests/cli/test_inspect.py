"""What `inspect` shows of networks, statistics and checkpoints, and of how a merge was made."""

import hashlib
import json

import pytest
import torch

from repair_kernels.checkpoints import load_metadata
from repair_kernels.cli import main
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.version import __version__
from tests.command_lines import BUILD, mlp

pytestmark = pytest.mark.usefixtures("torch_backend")


def inspected(capsys, *words: str) -> dict:
    assert main(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_of_a_network_groups_taps_and_pinned_axes_are_shown(capsys) -> None:
    found = inspected(capsys, *BUILD, "--input-shape", "12")
    assert [(group["name"], group["size"]) for group in found["groups"]] == [("fc1", 8), ("fc2", 8)]
    assert found["groups"][0]["axes"] == ["fc1.weight[0]", "fc1.bias[0]", "fc2.weight[1]"]
    assert found["taps"][0] == {"name": "fc1", "kind": "layer", "channels": 8}
    assert found["pinned"]["fc3.bias[0]"] == "output of the network"
    assert found["unknown_operators"] == {}
    assert found["parameters"] == sum(p.numel() for p in mlp(0).parameters())
    assert 0 < found["share_of_weights"] <= 1
    main(["inspect", *BUILD, "--input-shape", "12"])
    shown = capsys.readouterr().out
    assert "inputs of 12\n\n2 permutation groups" in shown
    assert "relu_1  activation  8\n" in shown


def test_of_statistics_every_tap_is_shown(pair, tmp_path, capsys) -> None:
    main(["stats", *pair, "-o", str(tmp_path / "stats"), "--quiet"])
    found = inspected(capsys, str(tmp_path / "stats"))
    assert (found["kind"], found["images"]) == ("statistics", 60)
    taps = {tap["name"]: tap for tap in found["taps"]}
    assert (taps["relu"]["channels"], taps["relu"]["products"]) == (8, ["cross"])
    assert taps["fc1"]["products"] == []
    assert found["fingerprint"]["coverage"]["total"] == 60
    main(["inspect", str(tmp_path / "stats")])
    assert "statistics of 60 images at 5 taps" in capsys.readouterr().out


def test_statistics_that_are_cut_off_are_said_to_be(pair, tmp_path, capsys) -> None:
    main(["stats", *pair, "-o", str(tmp_path / "stats"), "--quiet"])
    (tmp_path / "cut.st").write_bytes((tmp_path / "stats").read_bytes()[:-8])
    assert main(["inspect", str(tmp_path / "cut.st")]) == 1
    assert "cut.st' is no whole safetensors file: " in (said := capsys.readouterr().err)
    assert said.endswith("; copy it again, or compute it anew\n")


def test_of_a_run_that_was_stopped_is_shown_how_far_it_came(
    pair, tmp_path, monkeypatch, capsys
) -> None:
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(PairedStats, "save", killed)
    assert main(["stats", *pair, "-o", str(tmp_path / "stats"), "--quiet"]) == 130
    found = inspected(capsys, str(tmp_path / "stats.partial"))
    assert (found["kind"], found["images"]) == ("run", 60)
    main(["inspect", str(tmp_path / "stats.partial")])
    said = capsys.readouterr().out
    assert "a run of `stats` on its way, 60 images so far; the command that began it goes" in said


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_merged_checkpoint_says_how_it_was_made(pair, tmp_path, capsys, suffix) -> None:
    output = tmp_path / f"merged{suffix}"
    options = ["--alpha", "0.25", "--variant", "sequential", "--tap", "conv", "--restore", "std"]
    options += ["--balance", "layer", "--on-worse", "warn", "--samples", "50"]
    options += ["--match-by", "covariance"]
    assert main(["merge", *pair, *options, "-o", str(output), "--quiet"]) == 0
    capsys.readouterr()
    found = inspected(capsys, str(output))
    assert found["kind"] == "checkpoint"
    assert found["dtypes"] == {"float32": 6}
    made = found["metadata"]
    assert (made["version"], made["alpha"], made["variant"]) == (__version__, "0.25", "sequential")
    for name, source in zip("ab", made["sources"], strict=True):
        file = tmp_path / f"{name}.safetensors"
        assert source == {
            "path": str(file),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    assert made["options"]["tap"] == ["conv"]
    assert made["options"]["match_by"] == "covariance"
    assert (made["options"]["restore"], made["options"]["balance"]) == ("std", "layer")
    assert made["data"]["data"] == str(tmp_path / "data.pt")
    assert made["data"]["sha256"] == hashlib.sha256((tmp_path / "data.pt").read_bytes()).hexdigest()
    assert (made["data"]["samples"], made["data"]["images"]) == (50, 50)
    assert made["model"]["arguments"]["width"] == 8
    assert made["computing"] == {
        "processes": 1,
        "batch_size": 25,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    assert load_metadata(output)["alpha"] == "0.25"
    main(["inspect", str(output), "--tensors"])
    shown = capsys.readouterr().out
    assert f"made_by:           repair-kernels {__version__}" in shown
    assert "fc1.weight  float32  8 x 12" in shown


def test_a_checkpoint_of_others_is_described(tmp_path, capsys) -> None:
    torch.save({"ema": mlp(0).state_dict(), "model": mlp(1).state_dict()}, tmp_path / "x.pt")
    assert main(["inspect", str(tmp_path / "x.pt")]) == 1
    assert "it holds `model` (6 tensors), `ema` (6 tensors)" in capsys.readouterr().err
    found = inspected(capsys, str(tmp_path / "x.pt"), "--key", "ema")
    assert (len(found["tensors"]), found["metadata"]) == (6, {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "must be given a file or `--model`, and not both; neither is there; name one"),
        (["x.pt", "--model", "m:f"], "both is there; name one of them"),
        (["x.pt"], "x.pt, but nothing is there; check the path"),
        (BUILD, "neither `--data` nor `--input-shape` is given; give one, such as"),
    ],
)
def test_what_cannot_be_inspected_is_explained(capsys, words, said) -> None:
    assert main(["inspect", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["12,", "a", "0", "3;4"])
def test_a_shape_is_whole_numbers(capsys, shape) -> None:
    with pytest.raises(SystemExit) as error:
        main(["inspect", *BUILD, "--input-shape", shape])
    assert error.value.code == 2
    assert "whole numbers with commas between them, such as 3,224,224" in capsys.readouterr().err


def test_channels_are_matched_without_data(pair, tmp_path, capsys) -> None:
    main(["stats", *pair, "-o", str(tmp_path / "stats"), "--quiet"])
    at = pair.index("--data")
    match = ["match", *pair[:at], "--stats", str(tmp_path / "stats")]
    outputs = [tmp_path / "with.json", tmp_path / "without.json"]
    assert main([*match, *pair[at : at + 2], "-o", str(outputs[0])]) == 0
    assert main([*match, "--input-shape", "12", "-o", str(outputs[1])]) == 0
    assert outputs[0].read_text() == outputs[1].read_text()
    capsys.readouterr()
    assert main([*match, "-o", str(outputs[0])]) == 1
    assert "neither `--data` nor `--input-shape`" in capsys.readouterr().err
