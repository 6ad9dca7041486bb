"""The machines of the scale model: every figure that it assumes, by name, with where it is from."""

from __future__ import annotations

from math import log2


class Constant(float):
    """A number that says what it means and where it comes from.

    Example:
        >>> 2 * Constant(8, "GPUs of a node", "DGX H100 data sheet")
        16.0
    """

    meaning: str
    source: str

    def __new__(cls, value: float, meaning: str, source: str) -> Constant:
        """Make a float that carries its meaning and source."""
        constant = super().__new__(cls, value)
        constant.meaning, constant.source = meaning, source
        return constant

    def __getnewargs__(self) -> tuple[float, str, str]:  # type: ignore[override]
        """Return what a copy is made from."""
        return float(self), self.meaning, self.source


ASSUMED = "assumption"

GPUS_PER_NODE = Constant(8, "GPUs of a node", "data sheet of DGX H100 and H200")
CORES_PER_NODE = Constant(112, "cores of a node", "data sheet: two processors of 56 cores")
NVLINK = Constant(
    370e9,
    "bytes/s that a rank of a ring sends within a node",
    "NCCL's maintainer in NVIDIA/nccl-tests issue 212; the line has 450 GB/s",
)
NETWORK = Constant(
    47e9,
    "bytes/s of one GPU's own 400 Gb/s port to other nodes",
    "NCCL's maintainer in NVIDIA/nccl-tests issue 290: 46 to 48 GB/s",
)
COLLECTIVE_START = Constant(30e-6, "seconds of a collective of a few bytes in a node", ASSUMED)
COLLECTIVE_STEP = Constant(15e-6, "seconds more for each doubling of the nodes", ASSUMED)
MESSAGE_STEP = Constant(30e-6, "seconds of a message to the next rank, by TCP", ASSUMED)
MESSAGES = Constant(1e9, "bytes/s of messages, by TCP", ASSUMED)
PCIE = Constant(50e9, "bytes/s from host to GPU, pinned", "assumption; PCIe 5 x16 has 63 GB/s")
STORAGE_PER_NODE = Constant(
    10e9, "bytes/s that a node reads from shared storage", "assumption; its ports have 100 GB/s"
)
STORAGE = Constant(200e9, "bytes/s of the shared storage, all readers together", ASSUMED)
CONVOLUTION_SHARE = Constant(
    0.6, "of the data sheet's flop/s that convolutions reach", "assumption; a large product has 0.8"
)
HOST_LAUNCH = Constant(25e-6, "seconds of the host for a launch by Triton", ASSUMED)
CUDA_START = Constant(5, "seconds for CUDA's context and libraries", ASSUMED)
MEETING = Constant(2, "seconds until two processes have met (torchrun, NCCL)", ASSUMED)
MEETING_RANK = Constant(10e-3, "seconds more for each further rank", ASSUMED)
JPEG_BYTES = Constant(
    115_439, "bytes of an image file", "ILSVRC2012_img_train.tar: 147,897,477,120 / 1,281,167"
)
PIXEL_BYTES = Constant(3 * 224 * 224, "bytes of an image that was decoded ahead", "3 x 224 x 224")
SHARD_IMAGES = Constant(10_000, "images of one tar file", ASSUMED)

CONSTANTS = {name: value for name, value in globals().items() if isinstance(value, Constant)}


def nodes(gpus: int) -> int:
    """Return how many nodes the GPUs fill."""
    return -(-gpus // int(GPUS_PER_NODE))


def gpus_of_node(gpus: int) -> int:
    """Return how many GPUs are used on a node that has any."""
    return min(gpus, int(GPUS_PER_NODE))


def link_bandwidth(gpus: int) -> float:
    """Return bytes/s that a rank of a ring sends: across nodes all ports of a node together."""
    return float(NVLINK if nodes(gpus) == 1 else min(NVLINK, GPUS_PER_NODE * NETWORK))


def collective_start(gpus: int) -> float:
    """Return the seconds of a collective that moves next to nothing."""
    return COLLECTIVE_START + COLLECTIVE_STEP * log2(nodes(gpus))


def meeting_seconds(gpus: int) -> float:
    """Return how long the processes take to find each other."""
    return 0.0 if gpus == 1 else MEETING + MEETING_RANK * (gpus - 1)
