"""Makes tests/golden/torch_files: small files of the real `torch.save`, and what is in them.

python tests/convert/make_torch_files.py     (needs torch; the stored files are of 2.13.0)
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "torch_files"


def contents():
    """File name -> (what is saved, the tensors that are in it)."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    views = OrderedDict(
        whole=base,
        transposed=base.permute(2, 0, 1),
        part=base[1, 1:, ::2],
        last=base[1, 2, 3],
        expanded=torch.tensor([1.5, -2.5])[:, None].expand(2, 3),
        empty=torch.zeros(0, 4),
    )
    dtypes = OrderedDict(
        (str(dtype).removeprefix("torch."), torch.tensor([0, 1, 3, 100]).to(dtype))
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.float8_e4m3fn,
        )
    )  # fmt: skip
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, groups=2), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 3)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network[0](torch.ones(1, 2, 3, 3)).sum().backward()
    optimizer.step()
    state = network.state_dict()
    parameters = OrderedDict(weight=torch.nn.Parameter(torch.tensor([[1.0, 2.0]])), step=7)
    return {
        "views": (views, views),
        "dtypes": (dtypes, dtypes),
        "checkpoint": (
            {"model": state, "optimizer": optimizer.state_dict(), "iteration": 3}, state,
        ),
        "data_parallel": (torch.nn.DataParallel(network).state_dict(), state),
        "parameters": ({"state_dict": parameters}, {"weight": parameters["weight"]}),
    }  # fmt: skip


def main():
    """Writes every file in both formats."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, (saved, tensors) in contents().items():
        torch.save(saved, FOLDER / f"{name}_zip.pth")
        torch.save(saved, FOLDER / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
        expected[name] = {
            key: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "values": tensor.detach().double().flatten().tolist(),
            }
            for key, tensor in tensors.items()
        }
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
