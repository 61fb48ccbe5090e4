"""More than one machine: the same application as replicas of a Ray Serve deployment.

    serve run hf_asr.serving.ray_serve:build model_name_or_path=M min_replicas=2 max_replicas=8 max_upload_mb=20

Replicas come and go by the number of requests that each has open.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import HfArgumentParser

from .engine import EngineOptions
from .rest import ServerOptions, create_app
from .run import load_engine

if TYPE_CHECKING:
    from ray import serve


@dataclass
class ReplicaOptions:
    """What each replica serves and takes, and how many there are."""

    model_name_or_path: str = field(metadata={"help": "A checkpoint that every machine can read, or a Hub id."})
    min_replicas: int = 1
    max_replicas: int = 1
    open_requests: float = field(default=8.0, metadata={"help": "Those of a replica that another one is started for."})
    num_cpus: float = 1.0
    num_gpus: float = 0.0


def read_options(args: dict[str, Any]) -> tuple[ReplicaOptions, ServerOptions, EngineOptions]:
    """The arguments of `serve run`, or of a configuration file: every option of `scripts/serve.py`, and of replicas.

    HF_ASR_API_KEY is read here, on the machine that deploys; the replicas get the key from it.

    Raises:
        ValueError: No model, an argument that there is not, or a value that it cannot have.
    """
    kinds = (ReplicaOptions, ServerOptions, EngineOptions)
    known = {option.name: option for kind in kinds for option in fields(kind)}
    if unknown := set(args) - set(known):
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    if "model_name_or_path" not in args:
        raise ValueError("model_name_or_path=M is required: a checkpoint that every machine can read, or a Hub id")
    argv = []
    for name, value in args.items():
        if known[name].type == list[str]:  # `serve run` gives one string
            argv += [f"--{name}", *(value.replace(",", " ").split() if isinstance(value, str) else value)]
        elif value is not None:
            argv.append(f"--{name}={value}")

    def refuse(message: str) -> NoReturn:  # argparse would end the process
        raise ValueError(message)

    parser = HfArgumentParser(kinds, allow_abbrev=False)
    parser.error = refuse
    return parser.parse_args_into_dataclasses(argv)


def build(args: dict[str, Any]) -> "serve.Application":
    """The deployment; `read_options` has its arguments.

    Raises:
        ValueError: An argument is missing or wrong.
    """
    from ray import serve

    replica, options, engine_options = read_options(args)
    name, engines = replica.model_name_or_path, []

    def build_app():  # in each replica
        engines.append(load_engine(name, engine_options))
        return create_app(engines[0], options, model_name=name)

    class Replica:
        def check_health(self) -> None:
            """Ray replaces a replica for which this raises."""
            if not engines[0].is_alive:
                raise RuntimeError("the engine has stopped")

    deployment = serve.deployment(
        serve.ingress(build_app)(Replica),
        name="hf_asr",
        ray_actor_options={"num_cpus": replica.num_cpus, "num_gpus": replica.num_gpus},
        max_ongoing_requests=options.max_connections,
        max_queued_requests=options.max_connections,  # Ray's own queue before the replicas has no end
        autoscaling_config={
            "min_replicas": replica.min_replicas,
            "max_replicas": max(replica.min_replicas, replica.max_replicas),
            "target_ongoing_requests": replica.open_requests,
        },
    )
    return deployment.bind()
