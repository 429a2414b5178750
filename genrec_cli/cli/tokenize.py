"""genrec tokenize: item texts to vectors to codes."""

from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, environment_default, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "tokenize", shared_by_ranks=True)
    def tokenize(
        common: Common,
        codebooks: Annotated[
            int | None,
            typer.Option("--codebooks", metavar="K", help="Codes an item. Default: 32; of residual tokenizers 4."),
        ] = None,
        codewords: Annotated[
            int | None, typer.Option("--codewords", metavar="V", help="Codewords a codebook. Default: 256.")
        ] = None,
        tokenizer: Annotated[
            str | None,
            typer.Option(
                "--tokenizer",
                help="opq, pq (no rotation), rkmeans, rqvae (residual), text (subwords of titles), or random as a "
                "control. Default: opq.",
            ),
        ] = None,
        collisions: Annotated[
            str | None,
            typer.Option(
                "--collisions",
                metavar="none|digit|reassign",
                help="Items with equal codes: left so, numbered in one more digit, or moved to the nearest free code. "
                "Default: none.",
            ),
        ] = None,
        encoder: Annotated[
            str | None,
            typer.Option(
                "--encoder",
                help="Model or folder of sentence-transformers; lsa (offline); FILE.npy or FILE.parquet with your "
                "own vectors. Default: GENREC_ENCODER, else sentence-transformers/sentence-t5-base.",
            ),
        ] = None,
        pca: Annotated[
            int | None, typer.Option("--pca", metavar="WIDTH", help="Width after PCA. Default: 128.")
        ] = None,
        seed: Annotated[
            int | None, typer.Option("--seed", help="Of k-means, weights, or the draw. Default: 0.")
        ] = None,
        data: Annotated[str | None, typer.Option("--data", help="Data artifact. Default: the only one.")] = None,
        codebook_from: Annotated[
            str | None,
            typer.Option(
                "--codebook-from",
                metavar="CODES",
                help="Codes artifact whose PCA and codebooks to use as they are, for new items.",
            ),
        ] = None,
    ) -> "Artifact | None":
        """Turn item texts into vectors and vectors into codes, or titles into codes; show how good the codes are."""
        from genrec_cli import console
        from genrec_cli.artifacts import Artifact
        from genrec_cli.errors import UsageError
        from genrec_cli.ranks import here
        from genrec_cli.stages import tokenize as stage

        named = {"name": tokenizer, "codebooks": codebooks, "codewords": codewords, "collisions": collisions,
                 "pca": pca, "seed": seed}  # fmt: skip
        given = common.layers("tokenize", {"encoder": {}, "tokenizer": named})
        default = environment_default("GENREC_ENCODER", "sentence-transformers")

        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        tables = ws.find(dataset, "data", data)
        if stage.reads_titles(given["tokenizer"]):
            if not here().main:
                return None  # codes are the work of one process
            if encoder or codebook_from:
                option = "--encoder" if encoder else "--codebook-from"
                raise UsageError(f"{option} is for vectors; this tokenizer reads titles.", hint="Leave it out")
            config = stage.tokenizer_config(given["tokenizer"], tables)
            return make(common, *stage.titles_stage(ws, tables, config))
        chosen = stage.make_encoder(stage.encoder_values(given["encoder"], encoder, default))
        codebook = ws.find(dataset, "codes", codebook_from) if codebook_from else None
        if codebook:
            config = stage.frozen_config(ws, codebook, given["tokenizer"], chosen, tables)
        else:
            config = stage.tokenizer_config(given["tokenizer"], tables)

        plan, work = stage.vectors_stage(ws, tables, chosen)
        vectors = ws.done(plan)
        if vectors is None and common.dry_run:
            console.say(f"vectors/{plan.name}: would be made first")
            vectors = Artifact(ws.path(plan), {"key": plan.key, "digest": ""})
        elif vectors is None:
            console.say(f"vectors/{plan.name}: making them first")
            vectors = work()
        if vectors is None or not here().main:
            return None  # codebooks are fitted by the main process alone
        return make(common, *stage.codes_stage(ws, tables, vectors, chosen, config, codebook))
