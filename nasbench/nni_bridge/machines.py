import dataclasses
import json
import re
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasbench.config import RunConfig, read_config
from nasbench.errors import OptionError, unknown
from nasbench.nni_bridge import log
from nasbench.nni_bridge.portal import LOOPBACK
from nasbench.registry import describe_exception

OWN = ("known_hosts", "records")  # what a file of machines has beside NNI's fields
CLUSTERS = ("kubeflow", "frameworkcontroller", "dlc", "aml", "openpai")
# The mount point of NNI's storage in a container; OpenPAI and DLC have a setting for it.
KUBERNETES_MOUNT = "/tmp/mount"


@dataclass(frozen=True)
class Machines:
    """Where the runs of a sweep take place."""

    service: Any  # NNI's configuration of a training service, without command and code
    known_hosts: Path | None = None  # file of the machines' public SSH keys; the user's where `None`
    # Folder of the shared storage that receives the records: as it is called here, and there.
    records: tuple[Path, str] | None = None

    def concurrency(self, asked: int | None, configs: Iterable[RunConfig]) -> int:
        """How many runs there are at a time, by default one a machine; OptionError: unknown, or too few GPUs."""
        gpus = self.service.trial_gpu_number
        for config in configs:
            if config.nodes > 1:
                raise OptionError("nodes: a run of a sweep has one machine")
            if gpus is not None and config.device != "cpu" and config.devices > max(1, gpus):
                raise OptionError(f"devices {config.devices}: trialGpuNumber gives each run {gpus} GPU(s)")
        if asked is None and self.service.platform != "remote":
            raise OptionError(f"say with --concurrency how many runs {self.service.platform} shall make at a time")
        return asked or len(self.service.machine_list)


def read_machines(path: Path) -> Machines:
    """Read and check a YAML file: the fields of one of NNI's training services, in NNI's spelling.

    Beside them may be `known_hosts` (for `remote`) and `records: {here, there}` (for clusters). OptionError: all else.
    """
    given = read_config(path)
    own = {key: given.pop(key) for key in OWN if key in given}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            service = _load(given, path.resolve().parent)
            _validate(service)
        if service.platform == "remote":
            _check_remote(service)
    except OptionError as e:
        raise OptionError(f"{path}: {e}") from e
    except AssertionError as e:
        # It says no more than what it asserts.
        line = traceback.extract_tb(e.__traceback__)[-1].line or describe_exception(e)
        raise OptionError(f"{path}: NNI demands {line.removeprefix('assert ')}") from e
    except Exception as e:
        raise OptionError(f"{path}: {' '.join(str(e).split())}") from e
    known, known_hosts = own.get("known_hosts"), None
    if known is not None:
        if service.platform != "remote" or not isinstance(known, str):
            raise OptionError(f"{path}: known_hosts is a file, for the service remote")
        known_hosts = path.resolve().parent / Path(known).expanduser()
        if not known_hosts.is_file():
            raise OptionError(f"{path}: known_hosts {known_hosts} does not exist")
    return Machines(service, known_hosts, _records(path, service, own.get("records")))


def _load(given: Mapping[str, Any], base: Path) -> Any:
    """NNI's configuration object; relative paths in it are taken from `base`."""
    log.silence()
    from nni.experiment.config import training_services  # noqa: F401  (registers NNI's own)
    from nni.experiment.config.base import ConfigBase
    from nni.experiment.config.training_service import TrainingServiceConfig
    from nni.experiment.config.utils import camel_case, case_insensitive
    from nni.experiment.config.utils.internal import load_training_service_config, set_base_path, unset_base_path

    platforms = sorted(c.platform for c in TrainingServiceConfig.__subclasses__() if isinstance(c.platform, str))
    platform = given.get("platform")
    if platform is None:
        raise OptionError(f"platform is missing: one of {', '.join(platforms)}")
    set_base_path(base)
    try:
        service = load_training_service_config(dict(given))
    except AttributeError as e:
        from nni.experiment.config.utils.internal import _all_subclasses

        words = {case_insensitive(key): key for key in re.findall(r'"([^"]+)":', json.dumps(given, default=str))}
        wrong = [words.get(w.strip(), w.strip()) for w in str(e).rpartition("field(s) ")[2].split(",")]
        classes = [cls for cls in _all_subclasses(ConfigBase) if cls.__name__ == str(e).split()[0]]
        fields = [camel_case(field.name) for cls in classes for field in dataclasses.fields(cls)]
        raise OptionError(unknown(f"field of NNI's service {platform}", wrong[0], fields)) from e
    finally:
        unset_base_path()
    if isinstance(service, Mapping):
        raise OptionError(unknown("training service of NNI", platform, platforms))
    if not is_missing(service.trial_command):
        raise OptionError("trialCommand cannot be given: the runs of a sweep have their own")
    return service


def _validate(service: Any) -> None:
    """Check it as NNI will, in an experiment."""
    from nni.experiment.config import AlgorithmConfig, ExperimentConfig

    config: Any = ExperimentConfig("local")
    config.search_space = {"combine_params": {"_type": "choice", "_value": [0]}}
    config.tuner = AlgorithmConfig(name="Batch")
    config.trial_concurrency = 1
    config.trial_command = "python3"  # any
    config.nni_manager_ip = LOOPBACK
    for role in ("worker", "master", "ps"):
        given = getattr(service, role, None)
        if given is not None:
            for name in ("command", "code_directory"):
                if is_missing(getattr(given, name)):
                    setattr(given, name, ".")
    config.training_service = service
    config.validate()


def _check_remote(service: Any) -> None:
    if service.reuse_mode:
        raise OptionError("reuseMode must be false: NNI's older service, which it asks for, cannot be secured")
    for machine in service.machine_list:
        if machine.password is not None:
            raise OptionError(f"machine {machine.host}: passwords show in the portal; give an sshKeyFile instead")
        if machine.python_path is None or not machine.python_path.startswith(("/", "~/")):
            raise OptionError(
                f"machine {machine.host}: pythonPath must be the folder of the Python there that has nasbench "
                "installed, e.g. /home/me/nasbench/.venv/bin"
            )


def _records(path: Path, service: Any, given: Any) -> tuple[Path, str] | None:
    if service.platform not in CLUSTERS:
        if given is not None:
            raise OptionError(f"{path}: records is for clusters with a shared storage; here they are fetched")
        return None
    if service.platform == "openpai":
        # NNI 3.0 has its configuration, but its manager no longer knows it.
        raise OptionError(f"{path}: NNI 3.0 has no service for OpenPAI any more; use remote or kubeflow")
    if not isinstance(given, Mapping) or set(given) != {"here", "there"}:
        raise OptionError(
            f"{path}: records: {{here, there}} is missing: a folder of the shared storage, as it is called on this "
            f"machine and in the containers (there NNI's storage is at {KUBERNETES_MOUNT})"
        )
    here = path.resolve().parent / Path(str(given["here"])).expanduser()
    if not here.is_dir():
        raise OptionError(f"{path}: records: {here} is no folder of this machine")
    return here, str(given["there"])


def is_missing(value: Any) -> bool:
    """Whether a field of NNI's configuration was not given, or is empty."""
    from nni.experiment.config.utils import is_missing as nni_is_missing

    return value is None or bool(nni_is_missing(value))
