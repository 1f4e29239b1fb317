"""What `nasbench/nni_bridge` takes from NNI beside its documented interface: all of it here, and of each what breaks.

With another version of NNI this is the first test to run: a name that is gone fails with the feature of ours that
needs it. Nothing else in the product may use such a name.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nni
import nni.experiment
import nni_node
import pytest

ROOT = Path(__file__).parent.parent
BRIDGE = ROOT / "nasbench" / "nni_bridge"
PRODUCT = [ROOT / name for name in ("nasbench", "spaces", "strategies", "evaluators", "benchmarks", "experiments")]
MACHINERY = re.compile(r"(nni\.(experiment|tools|runtime|tuner|assessor|algorithms)|nni_node)\b")

STARTING = "starting a sweep, and `nasbench run --ui`"
STOPPING = "ending an experiment with everything it has started"
VIEWING = "`nasbench ui` on what has ended"
LISTING = "`nasbench ui --list`, and finding an experiment by its folder"
POLLING = "what a sweep says of its runs, and what it ends with"
STOPPED_EARLY = "telling a run that the assessor stopped from one that failed"
CHECKING = "refusing a wrong tuner or assessor before anything starts"
RESUMING = "going on with a tuner's sweep"
TRIALS = "a run of a sweep as NNI's trial: its parameters, its measures"
MACHINES = "`nasbench sweep --on`: reading and checking a file of machines"
REMOTE = "`nasbench sweep --on`: machines over SSH"
QUIET = "NNI's log off stdout"
LOOPBACK = "the portal on loopback only, under a secret prefix"

CHANNEL = "nni.runtime.trial_command_channel"
UTILS = "nni.experiment.config.utils"
# Module, an expression of its names, what breaks without it.
NAMES: list[tuple[str, str, str]] = [
    ("nni.experiment", "Experiment(None).start", STARTING),
    ("nni.experiment", "Experiment(None).id", STARTING),
    ("nni.experiment", "Experiment(None).url_prefix", LOOPBACK),
    ("nni.experiment", "RunMode.Detach", STARTING),
    ("nni.experiment", "Experiment(None)._proc", STOPPING),
    ("nni.experiment", "Experiment(None).port", STOPPING),
    ("nni.experiment", "Experiment(None)._stop_logging", STOPPING),
    ("nni.experiment", "Experiment(None)._action", VIEWING),
    ("nni.experiment", "Experiment(None).load_checkpoint", VIEWING),
    ("nni.experiment", "Experiment(None).get_status", POLLING),
    ("nni.experiment", "Experiment(None).list_trial_jobs", POLLING),
    *(
        ("nni.experiment.data", f"TrialJob('', '', 0, 0).{name}", POLLING)
        for name in ("trialJobId", "status", "hyperParameters", "startTime", "endTime", "logPath")
    ),
    ("nni.experiment.data", "TrialHyperParameters.__dataclass_fields__['parameters']", POLLING),
    ("nni.experiment.launcher", "NniManagerArgs.__dataclass_fields__['experiment_id']", STOPPING),
    ("nni.tools.nnictl.config_utils", "Experiments().remove_experiment", STARTING),
    ("nni.experiment.config", "ExperimentConfig('local')", STARTING),
    ("nni.experiment.config", "AlgorithmConfig", STARTING),
    ("nni.experiment.config", "CustomAlgorithmConfig", RESUMING),
    ("nni.experiment.config", "ExperimentConfig('local').training_service.use_active_gpu", STARTING),
    ("nni.tools.package_utils", "create_builtin_class_instance", CHECKING),
    ("nni.tools.package_utils", "get_algo_meta('TPE').algo_type", CHECKING),
    ("nni.tools.package_utils", "get_algo_meta('TPE').is_advisor", CHECKING),
    ("nni.tools.package_utils", "get_all_algo_meta()[0].name", CHECKING),
    ("nni.tools.package_utils.tuner_factory", "get_builtin_module_class_name", CHECKING),
    ("nni.tools.package_utils.tuner_factory", "create_validator_instance", CHECKING),
    ("nni", "NoMoreTrialError", RESUMING),
    ("nni.tuner", "Tuner.update_search_space", RESUMING),
    ("nni.tuner", "Tuner.generate_parameters", RESUMING),
    ("nni.tuner", "Tuner.generate_multiple_parameters", RESUMING),
    ("nni.tuner", "Tuner.receive_trial_result", RESUMING),
    ("nni.tuner", "Tuner.trial_end", RESUMING),
    ("nni.tuner", "Tuner.import_data", RESUMING),
    (CHANNEL, "get_default_trial_command_channel", TRIALS),
    (CHANNEL, "set_default_trial_command_channel", TRIALS),
    (f"{CHANNEL}.standalone", "StandaloneTrialCommandChannel().receive_parameter", TRIALS),
    (f"{CHANNEL}.standalone", "StandaloneTrialCommandChannel().send_metric", TRIALS),
    ("nni.experiment.config", "training_services", MACHINES),
    ("nni.experiment.config", "ExperimentConfig('local')._base_path", MACHINES),
    ("nni.experiment.config", "ExperimentConfig('local').validate", MACHINES),
    ("nni.experiment.config", "ExperimentConfig('local').nni_manager_ip", REMOTE),
    ("nni.experiment.config.training_service", "TrainingServiceConfig.__annotations__['platform']", MACHINES),
    ("nni.experiment.config.base", "ConfigBase", MACHINES),
    (UTILS, "case_insensitive", MACHINES),
    (UTILS, "camel_case", MACHINES),
    (UTILS, "is_missing", MACHINES),
    (f"{UTILS}.internal", "load_training_service_config", MACHINES),
    (f"{UTILS}.internal", "set_base_path", MACHINES),
    (f"{UTILS}.internal", "unset_base_path", MACHINES),
    (f"{UTILS}.internal", "_all_subclasses", MACHINES),
    ("nni.runtime.log", "silence_stdout", QUIET),
]
TYPESCRIPT, PYTHON = Path(nni_node.__file__).parent, Path(nni.__file__).parent
# File, the words in it on which we rely, what breaks without them.
WORDS: list[tuple[Path, str, str]] = [
    (PYTHON / "experiment/launcher.py", "preexec_fn=os.setpgrp", STOPPING),
    (PYTHON / "experiment/launcher.py", "'_latest'", STARTING),
    (PYTHON / "algorithms/hpo/batch_tuner.py", "'combine_params'", STARTING),
    (PYTHON / "tools/nnictl/config_utils.py", "'.experiment'", LISTING),
    *(
        (PYTHON / "tools/nnictl/config_utils.py", f"['{key}']", LISTING)
        for key in ("experimentName", "logDir", "port", "prefixUrl")
    ),
    (TYPESCRIPT / "core/sqlDatabase.js", "'nni.sqlite'", LISTING),
    (TYPESCRIPT / "core/sqlDatabase.js", "create table ExperimentProfile", LISTING),
    (TYPESCRIPT / "core/sqlDatabase.js", "create table TrialJobEvent", LISTING),
    (TYPESCRIPT / "core/sqlDatabase.js", "startTime integer", LISTING),
    (TYPESCRIPT / "core/sqlDatabase.js", "trialJobId text", LISTING),
    *(
        (TYPESCRIPT / "core/nnimanager.js", f"'{state}'", POLLING)
        for state in ("SUCCEEDED", "FAILED", "EARLY_STOPPED", "USER_CANCELED", "SYS_CANCELED", "DONE", "STOPPED")
    ),
    (TYPESCRIPT / "core/nnimanager.js", "setStatus('ERROR')", POLLING),
    (TYPESCRIPT / "core/nnimanager.js", "log.info('cancelTrialJob:', content)", STOPPED_EARLY),
    (TYPESCRIPT / "core/nnimanager.js", "log.info(`cancelTrialJob: ${trialJob.id}`)", STOPPED_EARLY),
    (TYPESCRIPT / "common/globals/paths.js", "'nnimanager.log'", STOPPED_EARLY),
    (TYPESCRIPT / "training_service/local_v3/local.js", "`${trainingServiceId}-env`", POLLING),
    (TYPESCRIPT / "training_service/local_v3/local.js", "'environments', this.env.id, 'trials', trialId", POLLING),
    (TYPESCRIPT / "common/trial_keeper/process.js", "'trial.stderr'", POLLING),
    *(
        (TYPESCRIPT / "common/trial_keeper/process.js", f"env['{name}']", TRIALS)
        for name in ("NNI_OUTPUT_DIR", "NNI_TRIAL_JOB_ID", "NNI_TRIAL_SEQ_ID", "NNI_TRIAL_COMMAND_CHANNEL")
    ),
    (TYPESCRIPT / "common/trial_keeper/process.js", "env['NNI_EXP_ID']", STOPPING),
    (TYPESCRIPT / "common/trial_keeper/keeper.js", "`/env/${this.envId}`", TRIALS),
    (TYPESCRIPT / "rest_server/restHandler.js", "router.get('/trial-jobs/:id'", TRIALS),
    (TYPESCRIPT / "rest_server/index.js", "app.listen(this.port)", LOOPBACK),
    (TYPESCRIPT / "rest_server/core.js", "app.listen(this.port)", REMOTE),
    (TYPESCRIPT / "common/globals/shutdown.js", "'Shutdown complete.'", REMOTE),
    (TYPESCRIPT / "training_service/remote_v3/worker.js", "-m pip install nni --upgrade", REMOTE),
    (TYPESCRIPT / "training_service/remote_v3/worker.js", "launch_trial_keeper", REMOTE),
]


def broken(names: Sequence[tuple[str, str, str]], words: Sequence[tuple[Path, str, str]]) -> list[str]:
    """A line for each thing of NNI's that is not there."""
    found = []
    for module, expression, feature in names:
        try:
            eval(expression, vars(importlib.import_module(module)))
        except Exception as e:
            found.append(f"{module}: {expression} ({type(e).__name__}: {e}), needed for {feature}")
    for path, text, feature in words:
        if not path.is_file() or text not in path.read_text(encoding="utf-8"):
            found.append(f"{path.name}: {text}, needed for {feature}")
    return found


def sources(*folders: Path) -> Iterator[tuple[str, ast.AST]]:
    """Where each node of the source files in some folders is, and the node."""
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def imported(node: ast.AST) -> list[tuple[str, str]]:
    """Module and name of each absolute import."""
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [(node.module or "", alias.name) for alias in node.names]
    return [(alias.name, "") for alias in node.names] if isinstance(node, ast.Import) else []


def private(node: ast.AST) -> str | None:
    """The private attribute that is read or set, of an object other than one's own."""
    if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        return None if own else node.attr
    return None


def test_nothing_that_we_need_of_nni_is_gone() -> None:
    assert not broken(NAMES, WORDS), f"NNI {nni.__version__} lacks:\n" + "\n".join(broken(NAMES, WORDS))


def test_what_is_gone_is_named_with_what_breaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(nni.experiment.Experiment, "_stop_logging")
    (line,) = broken(NAMES, [])
    assert line.startswith("nni.experiment: Experiment(None)._stop_logging (AttributeError")
    assert line.endswith(f"needed for {STOPPING}")
    (tmp_path / "main.js").write_text("listen(8080)")
    rows = [(tmp_path / name, "listen(this.port)", LOOPBACK) for name in ("main.js", "gone.js")]
    assert broken([], rows) == [f"{path.name}: {text}, needed for {LOOPBACK}" for path, text, _ in rows]


def test_the_tables_hold_everything_that_the_bridge_uses() -> None:
    known = {(module, re.split(r"\W", expression)[0]) for module, expression, _ in NAMES}
    attributes = {name for _, expression, _ in NAMES for name in re.findall(r"\.(\w+)", expression)}
    words = " ".join(text for _, text, _ in WORDS)
    for where, node in sources(BRIDGE):
        for module, name in imported(node):
            assert not re.match(r"nni\b", module) or (module, name) in known, f"{where}: {module}, {name}"
        assert private(node) is None or private(node) in attributes, f"{where}: {private(node)}"
        if isinstance(node, ast.Constant) and re.fullmatch(r"NNI_[A-Z_]+", str(node.value)):
            assert node.value in words, f"{where}: {node.value}"


def test_nothing_else_uses_nni_s_machinery() -> None:
    names = {name for _, expression, _ in NAMES for name in re.findall(r"\.(_[a-z]\w*)", expression)}
    assert {"_proc", "_action", "_base_path", "_stop_logging"} <= names
    for where, node in sources(*PRODUCT, ROOT / "examples"):
        if where.startswith(str(BRIDGE.relative_to(ROOT))):
            continue
        for module, name in imported(node):
            assert not MACHINERY.match(f"{module}.{name}"), f"{where}: {module} belongs into nasbench/nni_bridge"
        assert private(node) not in names, f"{where}: {private(node)} belongs into nasbench/nni_bridge"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not MACHINERY.match(node.value), f"{where}: {node.value} belongs into nasbench/nni_bridge"
