from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import benchmark_models as models

from offdyn_envs.benchmark.entries import submissions
from offdyn_envs.benchmark.gate.gate import OPERATORS
from offdyn_envs.benchmark.scoring import protocol

README = Path(__file__).parents[2] / "leaderboard" / "README.md"


def test_the_example_in_the_readme_makes_a_valid_entry(tmp_path: Path) -> None:
    folder = tmp_path / "leaderboard" / "submissions" / "mine"
    for seed in range(protocol.RANKED_SEEDS):
        path = folder / "policies" / "hopper-gravity-0.5-medium" / f"{seed}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(models.policy(11, 3, seed=seed))
    block = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    subprocess.run([sys.executable, "-c", block.group(1)], cwd=tmp_path, check=True)
    entry = submissions.load_entry(folder)
    assert entry.method == "My method"
    assert [len(result.returns) for result in entry.results] == [100] * protocol.RANKED_SEEDS


def test_the_readme_names_what_the_commands_are_called() -> None:
    from offdyn_envs.benchmark.commands import app

    names = {command.name for command in app.registered_commands}
    assert names == {"add", "verify", "page", "results"}
    shown = set(re.findall(r"^offdyn leaderboard (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == names


def test_the_readme_can_be_copied_on_the_board_as_it_is() -> None:
    text = README.read_text(encoding="utf-8")
    (added,) = re.findall(r"^offdyn leaderboard add .* --name (\S+)", text, re.MULTILINE)
    (verified,) = re.findall(r"^offdyn leaderboard verify leaderboard/submissions/(\S+)", text, re.MULTILINE)
    assert added == verified
    assert not (README.parent / "submissions" / added).exists()
    if not (README.parent / "verdicts/places.jsonl").exists():
        assert "from the first place on, `places.jsonl`" in text


def test_the_operator_list_is_the_protocols() -> None:
    listed = """
    Gemm MatMul Add Sub Mul Div Neg Abs Relu LeakyRelu Elu Gelu Tanh Sigmoid Softplus Softmax Erf Exp Log Sqrt Pow Min
    Max Clip LayerNormalization Concat Slice Split Gather Reshape Transpose Squeeze Unsqueeze Flatten Identity Constant
    Cast Shape Expand Where Greater Less Equal ReduceMean ReduceSum ReduceMax ReduceL2 BatchNormalization Reciprocal Sin
    Cos Sign Selu Celu PRelu HardSigmoid HardSwish Round ArgMax Mod
    """
    assert set(listed.split()) == OPERATORS
    assert not OPERATORS & {"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "Multinomial", "Dropout", "NonZero"}
