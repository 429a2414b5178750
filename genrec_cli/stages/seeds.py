"""Seeds of one setting: runs whose settings and inputs are equal apart from the seed of the training."""

from genrec_cli.artifacts import Artifact
from genrec_cli.config import canonical_json


def setting_of(run: Artifact) -> str:
    """A text that is equal for runs that differ in ``train.seed`` alone. Runs of ``--init-from`` are apart from others,
    but each may have started from its own seed of the pre-training."""
    config = {name: values for name, values in run.config.items() if name != "train"}
    config["train"] = {key: value for key, value in run.config["train"].items() if key != "seed"}
    inputs = {name: source["digest"] for name, source in run.manifest["inputs"].items() if name != "init"}
    return canonical_json([config, inputs, "init" in run.manifest["inputs"]])
