"""Examples for the help of each command."""

EXAMPLES = {
    "download": ["genrec download --dataset amazon-2014-beauty"],
    "preprocess": [
        "genrec preprocess --dataset amazon-2014-beauty",
        "genrec preprocess --dataset shop --interactions log.csv --items items.csv",
    ],
    "import": ["genrec import TABLES --dataset shop"],
    "export-data": ["genrec export-data --dataset shop --to atomic"],
    "tokenize": ["genrec tokenize --codebooks 16", "genrec tokenize --encoder lsa --tokenizer rqvae"],
    "train": ["genrec train --model mhl --curriculum r-e-inf", "genrec train --model sasrec --epochs 50 --dry-run"],
    "blend": ["genrec blend sasrec-s0 mhl-s0"],
    "serve": ["genrec serve mhl-s0", "genrec serve mhl-s0 sasrec-s0 --watch"],
    "tune": ["genrec tune baselines --minutes 60 --dry-run"],
    "report": ["genrec report --dataset amazon-2014-beauty"],
    "export": ["genrec export mhl-s0 --to shop-mhl"],
    "figures": ["genrec figures mhl-s0 rpg-s0", "genrec figures --sweep mhl-table2-test"],
    "evaluate": ["genrec evaluate --run mhl-s0 --at 5,10,20"],
    "compare": [
        "genrec compare rpg-s0,rpg-s1 mhl-s0,mhl-s1 --metrics NDCG@10",
        "genrec compare --sweep mhl-table2-test",
    ],
    "table": ["genrec table --reference sasrec", "genrec table --format latex"],
    "sweep": ["genrec sweep mhl-table2 --seeds 0,1,2 --dry-run"],
    "recommend": [
        "genrec recommend --run mhl-s0 --output lists.csv",
        "genrec recommend --run mhl-s0 --history new.jsonl -k 20",
    ],
    "case-study": ["genrec case-study rpg-s0 mhl-s0 --users 3"],
    "run": ["genrec run quickstart", "genrec run beauty --budget 30m"],
    "list": ["genrec list models", "genrec list runs --dataset shop"],
    "status": ["genrec status", "genrec status mhl"],
    "doctor": ["genrec doctor"],
    "rm": ["genrec rm rpg-s0 --with-dependants"],
    "gc": ["genrec gc --dry-run", "genrec gc --superseded --yes"],
}
"""Command -> command lines that can be typed as they are, apart from names."""


def epilog(name: str) -> str | None:
    """The examples of a command for the end of its help. After a line ``\\b`` lines are not joined."""
    lines = EXAMPLES.get(name, [])
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)]) if lines else None
