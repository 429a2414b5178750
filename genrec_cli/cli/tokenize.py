"""genrec tokenize: item texts to vectors, and vectors to codes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli.common import Common, command, environment_default, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


CODEBOOKS = "Codes per item. Default: 32; for rkmeans and rqvae 4, for svd 8."
TOKENIZER = """opq, pq (no rotation), rkmeans, rqvae (residual), svd (of training interactions), text (subwords of \
titles), or random as a baseline. Default: opq."""
COLLISIONS = """Items with equal codes: none keeps them, digit numbers them in one more digit, reassign moves them to \
the nearest free codes. Default: none."""
ENCODER = """Model or folder of sentence-transformers; lsa (offline); FILE.npy or FILE.parquet with your vectors. \
Default: that of --codebook-from, GENREC_ENCODER, or sentence-transformers/sentence-t5-base."""
CODES = """Codes made elsewhere, in place of a tokenizer: FILE.parquet (raw_id, codes) or FILE.npy. With --encoder \
their quality is measured with vectors."""
CODEBOOK_FROM = "Codes, or a run that reads codes: their PCA and codebooks are used without fitting, for new items."


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
        pca: Annotated[
            int | None, typer.Option(metavar="WIDTH", help="Width of the vectors after PCA. Default: 128.")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of k-means, weights, or random codes. Default: 0.")] = None,
        codes: Annotated[str | None, typer.Option(metavar="FILE", help=CODES)] = None,
        data: Annotated[str | None, typer.Option(help="Data artifact. Default: the only one.")] = None,
        codebook_from: Annotated[str | None, typer.Option(metavar="NAME", help=CODEBOOK_FROM)] = None,
    ) -> "Artifact | None":
        """Encode item texts as vectors, and vectors as codes.

        Or titles as codes. The quality of the codes is shown."""
        from genrec_cli.stages import tokenize as stage

        options = {"name": tokenizer, "codebooks": codebooks, "codewords": codewords, "pca": pca, "seed": seed}
        given = common.layers(
            "tokenize", {"encoder": {}, "behaviour": {}, "tokenizer": {**options, "collisions": collisions}}
        )
        default = environment_default("GENREC_ENCODER", "sentence-transformers")
        ws = common.workspace()
        tables = ws.find(ws.dataset(common.dataset), "data", data)
        asked: dict[str, Any] = {"encoder": encoder, "default_encoder": default, "tokenizer": tokenizer}
        made = stage.plan(ws, tables, given, **asked, codes=codes, codebook_from=codebook_from, dry_run=common.dry_run)
        return make(common, *made) if made else None
