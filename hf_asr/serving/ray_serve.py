"""Serve on several machines: the same application as replicas of a Ray Serve deployment.

    serve run hf_asr.serving.ray_serve:build model_name_or_path=M min_replicas=2 max_replicas=8 max_upload_mb=20

Ray Serve adjusts the number of replicas to the number of open requests.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from transformers import HfArgumentParser

from .app import create_app
from .engine import EngineOptions
from .options import ServerOptions
from .run import load_engine

if TYPE_CHECKING:
    from ray import serve


@dataclass
class ReplicaOptions:
    """The model and the resources of each replica, and the number of replicas."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint folder that every machine can read, or a Hub id."})
    min_replicas: int = field(default=1, metadata={"help": "Minimum number of replicas."})
    max_replicas: int = field(default=1, metadata={"help": "Maximum number of replicas."})
    open_requests: float = field(
        default=8.0, metadata={"help": "Open requests per replica above which another replica is started."}
    )
    num_cpus: float = field(default=1.0, metadata={"help": "CPU cores of a replica."})
    num_gpus: float = field(default=0.0, metadata={"help": "GPUs of a replica."})


def read_options(args: dict[str, Any]) -> tuple[ReplicaOptions, ServerOptions, EngineOptions]:
    """Return the options in the arguments of `serve run` or of a configuration file.

    Every option of the command `serve` except host and port, and every one of `ReplicaOptions`, is an argument.
    HF_ASR_API_KEY is read here, on the machine that deploys, and sent to the replicas.

    Raises:
        ValueError: The model is missing, an argument is unknown, or a value is not allowed.
    """
    kinds = (ReplicaOptions, ServerOptions, EngineOptions)
    known = {option.name: option for kind in kinds for option in fields(kind)}
    if unknown := set(args) - set(known):
        raise ValueError(f"unknown arguments: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    if "model_name_or_path" not in args:
        raise ValueError(
            "model_name_or_path=M is required: a checkpoint folder that every machine can read, or a Hub id"
        )
    argv = []
    for name, value in args.items():
        if known[name].type == list[str]:  # `serve run` passes it as one string
            argv += [f"--{name}", *(value.replace(",", " ").split() if isinstance(value, str) else value)]
        elif value is not None:
            argv.append(f"--{name}={value}")

    def raise_error(message: str) -> NoReturn:  # argparse would end the process
        raise ValueError(message)

    parser = HfArgumentParser(kinds, allow_abbrev=False)
    parser.error = raise_error
    return parser.parse_args_into_dataclasses(argv)


def build(args: dict[str, Any]) -> "serve.Application":
    """Return the deployment; `read_options` documents its arguments.

    Raises:
        ValueError: An argument is missing, unknown or not allowed.
    """
    from ray import serve

    replica, options, engine_options = read_options(args)
    name, engines = replica.model_name_or_path, []

    def build_app():  # runs in each replica
        engines.append(load_engine(name, engine_options))
        return create_app(engines[0], options, model_name=name)

    class Replica:
        def check_health(self) -> None:
            """Raise RuntimeError if the engine has stopped; Ray then replaces the replica."""
            if not engines[0].is_alive:
                raise RuntimeError("the engine has stopped")

    deployment = serve.deployment(
        serve.ingress(build_app)(Replica),
        name="hf_asr",
        ray_actor_options={"num_cpus": replica.num_cpus, "num_gpus": replica.num_gpus},
        max_ongoing_requests=options.max_connections,
        max_queued_requests=options.max_connections,  # Ray's own queue in front of the replicas is unlimited by default
        autoscaling_config={
            "min_replicas": replica.min_replicas,
            "max_replicas": max(replica.min_replicas, replica.max_replicas),
            "target_ongoing_requests": replica.open_requests,
        },
    )
    return deployment.bind()
