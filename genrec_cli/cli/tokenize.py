"""genrec tokenize: item texts to vectors, and vectors to codes."""

from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, environment_default, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


CODEBOOKS = "Codes per item. Default: 32; of residual tokenizers 4, of svd 8."
TOKENIZER = """opq, pq (no rotation), rkmeans, rqvae (residual), svd (of training interactions), text (subwords of \
titles), or random as a baseline. Default: opq."""
COLLISIONS = """Items with equal codes are kept, numbered in one more digit, or moved to the nearest free code. \
Default: none."""
ENCODER = """Model or folder of sentence-transformers; lsa (offline); FILE.npy or FILE.parquet with your vectors. \
Default: GENREC_ENCODER, else sentence-transformers/sentence-t5-base."""
CODES = """Codes made elsewhere, in place of a tokenizer: FILE.parquet (raw_id, codes) or FILE.npy. With --encoder \
their quality is measured with vectors."""
CODEBOOK_FROM = "Codes artifact whose PCA and codebooks are used without fitting, for new items."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "tokenize", distributed=True)
    def tokenize(
        common: Common,
        codebooks: Annotated[int | None, typer.Option(metavar="K", help=CODEBOOKS)] = None,
        codewords: Annotated[
            int | None, typer.Option(metavar="V", help="Codewords per codebook. Default: 256.")
        ] = None,
        tokenizer: Annotated[str | None, typer.Option(help=TOKENIZER)] = None,
        collisions: Annotated[str | None, typer.Option(metavar="none|digit|reassign", help=COLLISIONS)] = None,
        encoder: Annotated[str | None, typer.Option(help=ENCODER)] = None,
        pca: Annotated[int | None, typer.Option(metavar="WIDTH", help="Width after PCA. Default: 128.")] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of k-means, weights, or random codes. Default: 0.")] = None,
        codes: Annotated[str | None, typer.Option(metavar="FILE", help=CODES)] = None,
        data: Annotated[str | None, typer.Option(help="Data artifact. Default: the only one.")] = None,
        codebook_from: Annotated[str | None, typer.Option(metavar="CODES", help=CODEBOOK_FROM)] = None,
    ) -> "Artifact | None":
        """Encode item texts as vectors and vectors as codes, or titles as codes; show the quality of the codes."""
        from genrec_cli import console
        from genrec_cli.artifacts import Artifact
        from genrec_cli.errors import UsageError
        from genrec_cli.process_group import current_group
        from genrec_cli.stages import codes as stage
        from genrec_cli.stages.own_codes import OwnCodes
        from genrec_cli.stages.vectors import encoder_values, make_encoder, vectors_stage

        options = {"name": tokenizer, "codebooks": codebooks, "codewords": codewords, "pca": pca, "seed": seed}
        given = common.layers(
            "tokenize", {"encoder": {}, "behaviour": {}, "tokenizer": {**options, "collisions": collisions}}
        )
        default = environment_default("GENREC_ENCODER", "sentence-transformers")
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        tables = ws.find(dataset, "data", data)
        needs = frozenset() if codes else stage.needs(given["tokenizer"])
        invalid = {"--codebook-from": codebook_from and (codes or "vectors" not in needs)}
        invalid |= {"--tokenizer": codes and tokenizer, "--encoder": encoder and "titles" in needs}
        for option in filter(invalid.get, invalid):
            what = "--codes gives the codes" if codes else "this tokenizer reads no vectors"
            raise UsageError(f"{option} cannot be combined with these options: {what}.", hint=f"Leave {option} out")
        file_codes = OwnCodes(codes, given["tokenizer"], tables) if codes else None

        model = vectors = codebook = None
        if "vectors" in needs or encoder or (given["encoder"] and "titles" not in needs):
            model = make_encoder(encoder_values(given["encoder"], encoder, default))
            codebook = ws.find(dataset, "codes", codebook_from) if codebook_from else None
        if codebook and model:
            config = stage.frozen_config(ws, codebook, given["tokenizer"], model, tables)
        else:
            config = file_codes.config if file_codes else stage.tokenizer_config(given["tokenizer"], tables)
        behaviour = stage.behaviour_config(given["behaviour"], tables, codebook)
        if model:
            plan, work = vectors_stage(ws, tables, model)
            vectors = ws.done(plan)
            if vectors is None:
                console.say(f"vectors/{plan.name}: {'would be made first' if common.dry_run else 'making them first'}")
            if vectors is None and common.dry_run:
                vectors = Artifact(ws.path(plan), {"key": plan.key, "digest": "", "config": plan.config})
            elif vectors is None:
                vectors = work()
        if not current_group().main:  # one process makes the codes
            return None
        return make(common, *stage.codes_stage(ws, tables, config, vectors, codebook, file_codes, behaviour))
