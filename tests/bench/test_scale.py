"""The scale model, on figures worked out by hand, and its committed predictions."""

import json

import pytest
import torch
from torch import nn

import repair_kernels as rk
from bench.report import TABLES
from bench.scaling import cluster, model
from bench.scaling.exchange import PASSES, Collective, Exchange, exchange_of, merging_of, recording
from bench.scaling.workload import OperatorCount, count
from bench.tables.results import RESULTS, read

NOTHING = Exchange(0, 0)


def work(compute=0.02, launch=0.001, exchange=NOTHING, merging=0.0):
    return model.Work("net", 64, compute, launch, 1.0, exchange, merging)


def images(number, decode=1e-6, size=1.0, files=0):
    return model.Images("set", number, size, decode, files, listing_seconds=1e-5)


def parts(*args, gpus=1, **options):
    return model.parts(*args, gpus, import_seconds=2.0, **options)


def test_the_slowest_stage_sets_the_pace():
    found = parts(work(compute=0.064), images(64_000))
    assert found["compute"] == pytest.approx(64.0)
    assert model.limit(found) == "compute"
    once = cluster.CUDA_START + 2.0 + 1.0 + 64e-6  # with the first batch's decoding
    assert model.total(found) == pytest.approx(64.0 + once)


def test_stages_shrink_with_the_number_of_gpus_and_the_start_does_not():
    one, many = (parts(work(), images(10**9), gpus=gpus) for gpus in (1, 1024))
    assert many["compute"] == pytest.approx(one["compute"] / 1024, rel=1e-6)
    assert many["start"] > one["start"]


def test_a_share_is_rounded_up_to_whole_images_and_launches_to_whole_batches():
    found = parts(work(compute=0.064, launch=0.5), images(130), gpus=2)
    assert found["compute"] == pytest.approx(0.065)
    assert found["launch"] == pytest.approx(2 * 0.5)


def test_one_worker_decodes_the_first_batch_and_all_of_them_the_rest():
    found = parts(work(), images(13_000, decode=1e-3))
    assert model.WORKERS == 13
    assert found["first batch"] == pytest.approx(64e-3)
    assert found["decode"] == pytest.approx(1.0 - 64e-3)


def test_shared_storage_is_read_no_faster_by_more_gpus():
    found = [parts(work(), images(2**30, size=1e6), gpus=gpus)["read"] for gpus in (512, 1024)]
    assert found[0] == pytest.approx(found[1]) == pytest.approx(2**30 * 1e6 / cluster.STORAGE)


def test_a_single_process_exchanges_nothing():
    exchange = Exchange(10, 10**9)
    assert parts(work(exchange=exchange, merging=1.0), images(64))["exchange"] == 0
    two = parts(work(exchange=exchange, merging=1.0), images(64), gpus=2)["exchange"]
    assert two == pytest.approx(1.0 + 10 * cluster.COLLECTIVE_START + 0.5e9 / cluster.NVLINK)


def test_messages_go_from_each_rank_to_each_other_one():
    exchange = Exchange(0, 0, messages=2, message_bytes=100)
    assert exchange.sent_bytes(4) == 4 * 3 * 100
    found = parts(work(exchange=exchange), images(64), gpus=1024)["exchange"]
    each = 2 * cluster.MESSAGE_STEP + 100 / cluster.MESSAGES
    assert found == pytest.approx(1023 * each)


def test_across_nodes_every_collective_takes_longer_to_start():
    assert cluster.collective_start(8) == cluster.COLLECTIVE_START
    steps = cluster.collective_start(1024) - cluster.collective_start(8)
    assert steps == pytest.approx(7 * cluster.COLLECTIVE_STEP)


def test_every_figure_of_the_model_says_where_it_is_from():
    assert len(cluster.CONSTANTS) > 10
    assert all(one.meaning and one.source for one in cluster.CONSTANTS.values())


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


def test_the_counted_totals_are_those_of_real_statistics(small):
    stats = rk.compute_stats(small, small, [torch.rand(4, 3, 8, 8)])
    held = sum(t.numel() * 8 for moments in stats.values() for t in moments.tensors.values())
    counted = count("small", small, batch=4, pixels=8)
    assert counted.total_bytes == held
    assert [tap.name for tap in counted.taps] == list(stats)


def test_the_counted_flops_are_those_of_convolutions_and_linear_maps(small):
    per_image = 2 * 36 * 8 * 27 + 2 * 288 * 5
    assert count("small", small, batch=4, pixels=8).forward_flops == 2 * per_image


def test_operators_are_counted_with_what_they_move():
    x, y = torch.rand(8), torch.rand(8)
    with OperatorCount() as counted:
        (x + y).view(2, 4).relu_()
    assert [(one.name, one.bytes) for one in counted.operators] == [("add", 96), ("relu_", 64)]


def test_collectives_are_recorded_with_their_bytes(monkeypatch):
    for name in PASSES:
        monkeypatch.setattr(torch.distributed, name, lambda *args, **options: None)
    with recording() as calls:
        torch.distributed.all_reduce(torch.zeros(3, dtype=torch.float64), group="some")
        torch.distributed.broadcast(torch.zeros(2), src=0)
    assert calls == [Collective("all_reduce", 24), Collective("broadcast", 8)]
    assert Exchange.of(calls) == Exchange(2, 56)


def test_the_exchange_moves_the_totals_twice(small):
    stats = rk.compute_stats(small, small, [torch.rand(4, 3, 8, 8)])
    assert exchange_of(stats).moved == 2 * count("small", small, batch=4, pixels=8).total_bytes


def test_merging_reads_and_writes_all_totals(small):
    """Its operators: shifted to the common means, copied to the buffer that is sent, and back."""
    stats = rk.compute_stats(small, small, [torch.rand(4, 3, 8, 8)])
    names = [operator.name for operator in merging_of(stats)]
    copies = sum(operator.bytes for operator in merging_of(stats) if operator.name == "copy_")
    totals = count("small", small, batch=4, pixels=8).total_bytes
    assert names.count("cat") == 2
    assert copies >= 2 * totals


def test_the_committed_predictions_are_those_of_the_model_as_it_is():
    result, inputs = read("scale.json"), read("scale_inputs.json")
    sets = {name: model.Images(**one) for name, one in result["image_sets"].items()}
    works = {row["network"]: model.work_of(row, model.CHIP) for row in result["networks"]}
    assert result["rows"]
    for row in result["rows"]:
        found = model.parts(
            works[row["network"]],
            sets[row["images"]],
            row["gpus"],
            import_seconds=inputs["import_seconds"],
        )
        assert model.total(found) == pytest.approx(row["seconds"], rel=1e-9), row
        assert model.limit(found) == row["limit"]


def test_the_committed_constants_are_those_of_the_model_as_it_is():
    known = {name: [one, one.meaning, one.source] for name, one in cluster.CONSTANTS.items()}
    assert read("scale.json")["constants"] == known


def test_the_model_was_held_against_one_and_two_processes():
    rows = json.loads((RESULTS / "scale_check.json").read_text())["rows"]
    assert {row["processes"] for row in rows} == {1, 2}
    assert all(0.2 < row["batch_predicted"] / row["batch_measured"] < 2 for row in rows)


def test_the_page_shows_every_table_of_the_model():
    page = (RESULTS.parents[1] / "docs" / "scale.md").read_text()
    assert all(f"<!-- results:{name} -->" in page for name in TABLES if name.startswith("scale_"))
