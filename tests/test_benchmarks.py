"""Every benchmark runs; how fast it is, is for benchmarks to say."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import pytest
import torch

from nasbench.benchmarks import kernel, latency, modes, photos, search, step, strategies
from nasbench.cli import main
from nasbench.machine import environment

KEYS = {
    "step": {"plain_ms", "all_global_ms", "ours_ms", "eager_ms", "nni_darts_ms", "over_all_global", "speedup_nni"}
    | {"global_over_plain", "over_plain", "goals"},
    "latency": {"plain_ms", "global_ms", "onnx_plain_ms", "onnx_global_ms", "goals"}
    | {"global_over_plain", "onnx_global_over_plain"},
    "modes": {f"{w}_{m}_ms" for w in ("training", "inference") for m in ("eager", "compiled", "bf16")}
    | {f"{w}_{m}_over_eager" for w in ("training", "inference") for m in ("compiled", "bf16")}
    | {"compiling_s", "goals"},
    "search": {"steps", "passes", "search_ms", "plain_ms", "over_plain", "goals"},
    "memory": {"all_global_bytes", "ours_bytes", "nni_darts_bytes", "over_all_global", "over_nni", "goals"},
    "startup": {"help_s", "list_s", "first_step_s", "goals"},
    "strategies": {"tabular_ms", "nni_tabular_ms", "derived_ms", "naswot_ms", "speedup_nni", "goals"},
}


@pytest.mark.parametrize("name", KEYS)
def test_one_repetition(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step, "BATCH", 4)
    monkeypatch.setattr(modes, "BACKEND", "eager")
    monkeypatch.setattr(search, "run", partial(search.run, train_images=160, batch_size=16, epochs=4))
    monkeypatch.setattr(latency, "SIZE", 64)
    monkeypatch.setattr(strategies, "TRIALS", 3)
    monkeypatch.setattr(sys, "argv", ["nasbench", "bench", name, "--repetitions", "1", "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])[name]
    assert set(measured) == KEYS[name] | {"spread"}
    assert all(value > 0 for key, value in measured.items() if key not in ("spread", "goals"))
    assert measured["goals"].keys() <= measured.keys()


def test_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "SHAPES", ((2, 8, 9, 9),))
    (entry,) = kernel.run(1)
    assert set(entry) == {
        *("shape", "ours_ms", "eager_nhwc_ms", "eager_nchw_ms", "speedup_nhwc", "speedup_nchw", "spread")
    }


def test_photos(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(photos, "PHOTOS", 24)
    monkeypatch.setattr(photos, "BATCH", 4)
    monkeypatch.setattr(sys, "argv", ["nasbench", "bench", "photos", "--repetitions", "1"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    shown = capsys.readouterr().out
    assert [line.split()[-2:] for line in shown.splitlines() if "speedup " in line] == [["≥", "4×"], ["≥", "1.5×"]]
    assert shown.count("images/s") == 2 * 4 * 3
    monkeypatch.setattr(photos, "GOALS", {16: "≥ 4×"})
    (entry,) = photos.run(1)
    rates = {name: entry[f"{name}_rate"] for name in ("former_files", "files", "former_kept", "kept")}
    assert entry["speedup"] == rates["kept"] / rates["former_files"]
    assert entry["speedup_files"] == rates["files"] / rates["former_files"]
    assert entry["speedup_kept"] == rates["kept"] / rates["former_kept"]
    assert entry["goals"] == {"speedup": "≥ 4×"}


def test_the_contenders_compute_the_same() -> None:
    """The supernets are one network: ours and the eager one even with the same weights."""
    outputs = []
    for name in ("ours", "eager", "nni_darts"):
        network, kernels, _ = step.build(name)
        with environment(NASBENCH_KERNELS=kernels), torch.no_grad():
            outputs.append(_seeded(network)(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-3, atol=1e-4)


def _seeded(network: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(network.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network
