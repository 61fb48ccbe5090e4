"""More than one machine: the same application as replicas of a Ray Serve deployment.

    serve run hf_asr.serving.ray_serve:build model_name_or_path=M min_replicas=2 max_replicas=8

Replicas come and go by the number of requests that each has open.
"""

from ray import serve

from .engine import EngineOptions
from .rest import ServerOptions, create_app
from .run import load_engine


def build(args: dict[str, str]) -> serve.Application:
    """
    Args:
        args: `model_name_or_path`; `min_replicas`, `max_replicas` (1 and 1); `open_requests` (8), those of a replica
            that another one is started for; `num_cpus`, `num_gpus` of a replica (1 and 0); `api_key`.

    Raises:
        ValueError: No model, or an argument that there is not.
    """
    known = {"model_name_or_path", "min_replicas", "max_replicas", "open_requests", "num_cpus", "num_gpus", "api_key"}
    if unknown := set(args) - known:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    if "model_name_or_path" not in args:
        raise ValueError("model_name_or_path=M is required: a checkpoint that every machine can read, or a Hub id")
    name, options = args["model_name_or_path"], ServerOptions(api_key=args.get("api_key"))

    def build_app():  # in each replica
        return create_app(load_engine(name, EngineOptions()), options, model_name=name)

    minimum = int(args.get("min_replicas", 1))
    deployment = serve.deployment(
        serve.ingress(build_app)(),
        name="hf_asr",
        ray_actor_options={"num_cpus": float(args.get("num_cpus", 1)), "num_gpus": float(args.get("num_gpus", 0))},
        max_ongoing_requests=options.max_connections,
        autoscaling_config={
            "min_replicas": minimum,
            "max_replicas": max(minimum, int(args.get("max_replicas", 1))),
            "target_ongoing_requests": float(args.get("open_requests", 8)),
        },
    )
    return deployment.bind()
