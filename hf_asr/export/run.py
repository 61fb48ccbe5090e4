"""Export a checkpoint to files that other runtimes load."""

import argparse

from ..checkpoint import load_checkpoint
from ..decoding.arguments import ChunkArguments
from ..decoding.recognizer import with_chunks
from ..decoding.streams import check_streams
from ..files import EXPORT_REPORT, TOKENS, check_empty_folder
from ..hub.wenet_export import export_wenet
from ..model import ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor
from ..provenance import weights_sha256
from ..runtime.openvino import import_openvino
from ..runtime.ort_model import OrtConformerForCTC
from . import sherpa, sherpa_streaming
from .build import GraphBuilder, build_graphs
from .folder import check_folder, move_in, partial_folder
from .utterances import load_utterances


def export(args: argparse.Namespace) -> list[dict]:
    """Write the graphs that pass the check, the processor and `export_report.json` to `args.output_dir`.

    For the target `wenet`, write a model directory of WeNet instead.

    Args:
        args: The options of `hf-asr export` (hf_asr/commands/export.py).

    Returns:
        The entries of `export_report.json` for the graphs that were refused.

    Raises:
        ValueError: The checkpoint cannot be loaded, the target does not support it, or there are no utterances to
            check graphs on.
        ImportError: A package that the target needs is not installed.
    """
    check_arguments(args)
    model, processor = load_source_checkpoint(args.model_name_or_path)
    if args.target == "wenet":
        export_wenet(model, processor, args.output_dir, allow_other_features=args.allow_other_features)
        print(f"{args.output_dir}: final.pt, train.yaml, units.txt, global_cmvn")
        return []
    config, facts = model.config, {}  # the checkpoint's own: the chunks of a streaming graph are in its metadata
    check_features(args, processor.feature_extractor)
    if args.streaming:
        model = streaming_model(args, model, processor)
        facts = {"chunk_size": model.config.chunk_size, "num_left_chunks": model.config.num_left_chunks}
    utterances = load_utterances(args, model, processor)
    with partial_folder(args.output_dir) as folder:
        builder = GraphBuilder(
            model,
            processor,
            utterances,
            folder,
            target=args.target,
            model_sha256=weights_sha256(args.model_name_or_path),
            keeps_refused=args.allow_differences,
            facts=facts,
        )
        build_graphs(args, builder)
        if builder.graphs:
            config.save_pretrained(folder)
            processor.save_pretrained(folder)
            if args.target == "sherpa-onnx":
                sherpa.write_tokens(folder / TOKENS, processor.tokenizer)
        move_in(folder, args.output_dir, graphs=builder.graphs, refused=builder.refused)
    names = sorted({entry["file"] for entry in builder.graphs}) or ["no graph was written"]
    print(f"{args.output_dir}: {', '.join(names)}; {EXPORT_REPORT}")
    if args.streaming and args.target == "sherpa-onnx" and builder.graphs:
        options = {"config": model.config, "extractor": processor.feature_extractor}
        print(f"\n{sherpa_streaming.example(args.output_dir, builder.graphs[-1]['file'], **options)}", end="")
    return builder.refused


def check_arguments(args: argparse.Namespace) -> None:
    """Check everything that can be checked before the checkpoint is loaded.

    Raises:
        ValueError: Options that exclude one another, a number out of range, or an unusable output folder.
        ImportError: The target is OpenVINO, which is not installed.
    """
    if args.with_frontend and args.target != "onnx":
        raise ValueError(f"--with_frontend goes with --target onnx; {args.target} computes or takes features")
    if args.quantize and args.target in ("tensorrt", "openvino", "wenet"):
        raise ValueError(f"--quantize goes with onnx and sherpa-onnx; {args.target} chooses its precision itself")
    if args.quantize == "int8-static" and not args.dataset_name:
        raise ValueError("--quantize int8-static measures ranges on recordings: give --dataset_name")
    ChunkArguments(chunk_size=args.chunk_size, num_left_chunks=args.num_left_chunks)  # raises
    if args.streaming and (args.target not in ("onnx", "sherpa-onnx") or args.with_frontend):
        kind = "a graph with --with_frontend" if args.with_frontend else args.target
        raise ValueError(f"--streaming goes with --target onnx and sherpa-onnx, whose graphs take features, not {kind}")
    if args.streaming and args.quantize == "int8-static":
        raise ValueError("--streaming goes with --quantize int8 and fp16, not int8-static")
    if not args.streaming and (args.chunk_size, args.num_left_chunks) != (None, None):
        raise ValueError("--chunk_size and --num_left_chunks go with --streaming true")
    if args.max_utterances < 1:
        raise ValueError(f"--max_utterances must be 1 or more, not {args.max_utterances}")
    if args.target == "wenet":
        check_empty_folder(args.output_dir)
    if args.target == "openvino":
        import_openvino()
    check_folder(args.output_dir, checkpoint=args.model_name_or_path)


def load_source_checkpoint(model_name_or_path: str) -> tuple[ConformerForCTC, ConformerProcessor]:
    """Load the PyTorch model and the processor of a checkpoint of hf_asr.

    Raises:
        ValueError: It is an exported graph or another family's model, or it is damaged.
    """
    try:
        model, processor = load_checkpoint(model_name_or_path, device="cpu")
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # of safetensors or tokenizers; or weights that are missing or of another shape
        raise ValueError(f"{model_name_or_path} cannot be loaded: {error}") from error
    if isinstance(model, OrtConformerForCTC):
        raise ValueError(f"{model_name_or_path} is an exported graph: give the checkpoint that it was made from")
    if not isinstance(model, ConformerForCTC):
        raise ValueError(
            f"{model_name_or_path} is not a checkpoint of hf_asr but {type(model).__name__}: models of other families "
            "are exported by optimum-onnx"
        )
    return model, processor


def streaming_model(args: argparse.Namespace, model: ConformerForCTC, processor: ConformerProcessor) -> ConformerForCTC:
    """Return the model in the chunks of a graph for live audio.

    Raises:
        ValueError: The checkpoint cannot stream, or the target cannot run it.
    """
    if model.config.causal_conv:  # otherwise no chunks help, and `check_streams` says why
        model = with_chunks(model, ChunkArguments(chunk_size=args.chunk_size, num_left_chunks=args.num_left_chunks))
    check_streams(model, processor.feature_extractor)
    if args.target == "sherpa-onnx":
        if reason := sherpa_streaming.refusal(model.config):
            raise ValueError(reason)
        sherpa_streaming.warn_of_times(model.config, processor.feature_extractor)
    return model


def check_features(args: argparse.Namespace, extractor: ConformerFeatureExtractor) -> None:
    """Raise ValueError if the target does not support the checkpoint's features."""
    if args.target == "sherpa-onnx" and (
        reason := sherpa.refusal(extractor, allow_other_features=args.allow_other_features)
    ):
        raise ValueError(reason)
    if args.with_frontend and extractor.denoise:
        raise ValueError("this checkpoint relies on denoising, which a graph cannot do: export it without frontend")
