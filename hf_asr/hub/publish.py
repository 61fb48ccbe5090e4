"""Publish a checkpoint on the Hub: weights, the code that loads them, and a card of measured figures."""

from pathlib import Path

from ..files import written_beside
from .arguments import PublishArguments
from .card import CardFacts, model_card
from .contents import collect_files
from .ledger import LEDGER, ledger
from .space import space_files
from .upload import check_is_id, upload_model, upload_space


def publish(args: PublishArguments) -> None:
    """Write the card into the checkpoint's folder, and upload it with all other files in one commit.

    Raises:
        ValueError: The folder is not a checkpoint of hf_asr or has no evaluation of its own, an id is malformed, or
            the Hub refuses or cannot be reached. Nothing is uploaded in these cases.
    """
    space_id = args.space_id or f"{args.hub_model_id}-demo"
    for name in (args.hub_model_id, space_id):
        check_is_id(name)
    files, facts = collect_files(args)
    card = write_card(args.model_name_or_path, facts)
    files[card.name] = card
    files[LEDGER] = ledger(files)
    demo = space_files(args.hub_model_id) if args.create_space else {}
    if args.dry_run:
        for repository, content in ((args.hub_model_id, files), (space_id, demo)):
            for name in sorted(content):
                print(f"{repository}  {name}")
        visibility = "public" if args.public else "private"
        print(f"{card} is the card; nothing was uploaded ({visibility})")
        return
    options = {"public": args.public, "token": args.token}
    url = upload_model(args.hub_model_id, files, revision=args.revision, **options)
    print(f"{url}: {len(files)} files")
    if demo:
        url = upload_space(space_id, demo, model_id=args.hub_model_id, **options)
        print(f"{url}: {len(demo)} files")
        if not args.public:
            print(f"the model is private: give the Space a secret HF_TOKEN that may read {args.hub_model_id}")


def write_card(folder: Path, facts: CardFacts) -> Path:
    """Write README.md into the folder and return its path."""
    path = folder / "README.md"
    with written_beside(path) as partial:
        model_card(facts).save(partial)
    return path
