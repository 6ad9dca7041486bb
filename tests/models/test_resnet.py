"""The ResNets: shapes, parameter names, options, Fixup's start, refused arguments."""

import pytest
import torch

from models import resnet

CIFAR_BLOCK = {
    f"{layer}.{entry}"
    for layer in ("bn1", "bn2")
    for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
} | {"conv1.weight", "conv2.weight"}


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_depth_gives_the_published_number_of_parameters(depth: int, parameters: int) -> None:
    model = getattr(resnet, f"resnet{depth}")()
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_cifar_names_are_those_of_public_checkpoints() -> None:
    keys = set(resnet.resnet20().state_dict())
    blocks = {
        f"layer{stage}.{block}.{key}"
        for stage in (1, 2, 3)
        for block in range(3)
        for key in CIFAR_BLOCK
    }
    stem = {key for key in CIFAR_BLOCK if "1" in key}
    assert keys == blocks | stem | {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("width", [1, 2, 4])
def test_width_multiplies_every_stage(width: int) -> None:
    model = resnet.cifar_resnet(8, width=width)
    channels = [getattr(model, f"layer{i}")[0].conv2.out_channels for i in (1, 2, 3)]
    assert channels == [16 * width, 32 * width, 64 * width]


@pytest.mark.parametrize("norm", resnet.NORMS)
@pytest.mark.parametrize("shortcut", resnet.SHORTCUTS)
def test_options_give_logits_and_load_strictly(norm: str, shortcut: str) -> None:
    options = {"norm": norm, "shortcut": shortcut, "in_channels": 1, "classes": 7}
    model, twin = (resnet.cifar_resnet(8, **options).eval() for _ in range(2))
    twin.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(3, 1, 28, 28)
    assert model(x).shape == (3, 7)
    assert torch.equal(model(x), twin(x))


def test_option_a_pads_equally_on_both_sides() -> None:
    x = torch.randn(2, 4, 6, 6)
    y = resnet.OptionAShortcut(4, 8, stride=2)(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == y[:, 6:].abs().sum() == 0


def test_projection_shortcut_is_a_convolution_with_its_norm() -> None:
    keys = set(resnet.cifar_resnet(8, shortcut="projection").state_dict())
    assert {"layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var"} <= keys


def test_cifar_resnet18_has_four_stages_with_projections() -> None:
    model = resnet.cifar_resnet18()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert model.layer4[1].conv2.weight.shape == (512, 512, 3, 3)


def test_fixup_starts_as_its_shortcuts() -> None:
    model = resnet.resnet20(norm="fixup")
    block = model.layer1[0]
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)
    assert not model(torch.randn(2, 3, 32, 32)).any()
    expected = (2 / (16 * 9)) ** 0.5 / 9**0.5
    assert block.conv1.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_fixup_trains_from_its_start() -> None:
    model = resnet.cifar_resnet(8, norm="fixup")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8) % 2
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "options", "parameters"),
    [
        ("imagenet_resnet18", {}, 11_689_512),
        ("imagenet_resnet50", {}, 25_557_032),
        ("imagenet_resnet50", {"width_per_group": 128}, 68_883_240),
        ("imagenet_resnet50", {"width": 2}, 98_004_072),
    ],
)
def test_imagenet_networks_have_the_published_size(
    make: str, options: dict, parameters: int
) -> None:
    with torch.device("meta"):
        model = getattr(resnet, make)(**options)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_imagenet_names_are_torchvisions() -> None:
    with torch.device("meta"):
        keys = set(resnet.imagenet_resnet50().state_dict())
    assert len(keys) == 320
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer4.2.bn3.bias",
        "fc.bias",
    } <= keys
    assert "layer1.1.downsample.0.weight" not in keys


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_networks_compute_what_torchvisions_do(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    ours = getattr(resnet, f"imagenet_{name}")().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_double_width_doubles_the_stem_and_the_features() -> None:
    with torch.device("meta"):
        model = resnet.imagenet_resnet50(width=2)
    assert model.conv1.out_channels == 128
    assert model.fc.in_features == 4096


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet.cifar_resnet(21), "`depth` must be 6n"),
        (lambda: resnet.cifar_resnet(20, width=0), "`width` must be a positive multiplier, got 0"),
        (
            lambda: resnet.cifar_resnet(20, norm="instance"),
            "`norm` must be one of .* got 'instance'",
        ),
        (lambda: resnet.cifar_resnet(20, shortcut="b"), "`shortcut` must be one of .* got 'b'"),
        (lambda: resnet.cifar_resnet18(width=0), "`width` must be"),
        (lambda: resnet.imagenet_resnet50(width=-1), "`width` must be"),
        (lambda: resnet.imagenet_resnet18(width_per_group=128), "64 with basic blocks, got 128"),
    ],
)
def test_bad_options_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
