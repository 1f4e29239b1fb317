"""The way from photos to a phone, as the README tells it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LESS = (("-n 50", "-n 10"), (r"--image-size \d+", "--image-size 64"), (r"epochs \d+", "epochs 1"))


@pytest.mark.slow
def test_the_five_commands_of_the_readme_end_with_a_page_and_a_network(real_data: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^## From your photos to a phone\n.*?^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)[0]
    assert len(re.findall(r"^(?:for|nasbench) ", commands, re.MULTILINE)) == 5
    for pattern, replacement in LESS:
        commands = re.sub(pattern, replacement, commands)
    for name in re.findall(r"trashnet\b|\S+\.safetensors", commands):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(real_data / name)
    script = f'set -e\nnasbench() {{ "{sys.executable}" -m nasbench "$@"; }}\n{commands}'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "photos").rglob("*.jpg"))) == 60
    (page,) = (tmp_path / "runs").glob("*/explained.html")
    content = page.read_text(encoding="utf-8")
    assert content.count('src="data:image/') >= 2 * 6  # a photo of each class, and where the network looks in it
    assert page.stat().st_size < 3_000_000
    assert "cardboard/cardboard1" in content
    predicted = [line for line in done.stdout.splitlines() if line.startswith("trashnet/glass/")]
    assert len(predicted) == 3
    assert "as PyTorch on all 12 test images" in done.stderr
