"""genrec tokenize: item texts to vectors, and vectors to codes."""

from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, environment_default, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "tokenize", distributed=True)
    def tokenize(
        common: Common,
        codebooks: Annotated[
            int | None,
            typer.Option("--codebooks", metavar="K", help="Codes per item. Default: 32; of residual tokenizers 4."),
        ] = None,
        codewords: Annotated[
            int | None, typer.Option("--codewords", metavar="V", help="Codewords per codebook. Default: 256.")
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
                help="Items with equal codes are left, numbered in one more digit, or moved to the nearest free code. "
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
            int | None, typer.Option("--seed", help="Seed of k-means, weights, or random codes. Default: 0.")
        ] = None,
        codes: Annotated[
            str | None,
            typer.Option(
                "--codes",
                metavar="FILE",
                help="Codes made elsewhere, in place of a tokenizer: FILE.parquet (raw_id, codes) or FILE.npy. "
                "With --encoder their quality is measured against vectors.",
            ),
        ] = None,
        data: Annotated[str | None, typer.Option("--data", help="Data artifact. Default: the only one.")] = None,
        codebook_from: Annotated[
            str | None,
            typer.Option(
                "--codebook-from",
                metavar="CODES",
                help="Codes artifact whose PCA and codebooks are used as they are, for new items.",
            ),
        ] = None,
    ) -> "Artifact | None":
        """Turn item texts into vectors and vectors into codes, or titles into codes; show how good the codes are."""
        from genrec_cli import console
        from genrec_cli.artifacts import Artifact
        from genrec_cli.errors import UsageError
        from genrec_cli.process_group import current_group
        from genrec_cli.stages import codes as stage
        from genrec_cli.stages.own_codes import OwnCodes
        from genrec_cli.stages.vectors import encoder_values, make_encoder, vectors_stage

        named = {"name": tokenizer, "codebooks": codebooks, "codewords": codewords, "pca": pca, "seed": seed}
        named["collisions"] = collisions
        given = common.layers("tokenize", {"encoder": {}, "tokenizer": named})
        default = environment_default("GENREC_ENCODER", "sentence-transformers")

        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        tables = ws.find(dataset, "data", data)
        needs = frozenset() if codes else stage.needs(given["tokenizer"])
        refused = {"--codebook-from": codebook_from and (codes or "vectors" not in needs)}
        refused |= {"--tokenizer": codes and tokenizer, "--encoder": encoder and "titles" in needs}
        for option in [option for option, wrong in refused.items() if wrong]:
            what = "--codes brings the codes" if codes else "this tokenizer reads no vectors"
            raise UsageError(f"{option} does not go with these options: {what}.", hint=f"Leave {option} out")
        own = OwnCodes(codes, given["tokenizer"], tables) if codes else None

        chosen = vectors = codebook = None
        if "vectors" in needs or encoder or (given["encoder"] and "titles" not in needs):
            chosen = make_encoder(encoder_values(given["encoder"], encoder, default))
            codebook = ws.find(dataset, "codes", codebook_from) if codebook_from else None
        if codebook:
            config = stage.frozen_config(ws, codebook, given["tokenizer"], chosen, tables)
        else:
            config = own.config if own else stage.tokenizer_config(given["tokenizer"], tables)

        if chosen:
            plan, work = vectors_stage(ws, tables, chosen)
            vectors = ws.done(plan)
            if vectors is None and common.dry_run:
                console.say(f"vectors/{plan.name}: would be made first")
                vectors = Artifact(ws.path(plan), {"key": plan.key, "digest": "", "config": plan.config})
            elif vectors is None:
                console.say(f"vectors/{plan.name}: making them first")
                vectors = work()
        if not current_group().main:  # one process alone makes the codes
            return None
        return make(common, *stage.codes_stage(ws, tables, config, vectors, codebook, own))
