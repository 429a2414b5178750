"""Kill the pipeline at random moments, give the same command again, and compare what it made byte for byte.

    python bench/kill.py --root FOLDER --kills 200 --seed 0

Every stage runs undisturbed twice on a tiny shop, which gives its duration and its files. For a kill, a stage is drawn,
its inputs are copied, and SIGKILL comes at a uniform moment of that duration; half of the time the next call is killed
as well. Then the command is given until it is finished. What differs between the two undisturbed runs (measured times
in logs and tables) is listed and not compared. What was done is kept in FOLDER: the same command goes on.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from genrec_cli import registry
from genrec_cli.console import markdown
from genrec_cli.files import sha256_file

SMALL = {"width": 16, "heads": 2, "inner": 16, "layers": 1, "head_width": 8}
TRAIN = ["--epochs=8", "--set=train.checkpoint_minutes=0.0001", "--set=train.warmup_steps=2", "--device=cpu"]
CODES = "opq4x8-lsa"
SWEEP = """[sweep]
title = "Two learning rates"
columns = ["NDCG@10", "epochs"]
grid = { "train.lr" = [1e-3, 3e-3] }
[model]
name = "sasrec"
width = 16
heads = 2
[train]
epochs = 2
"""
SENTENCES = """
import sys, torch, transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
folder, words = sys.argv[1], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
open(f"{folder}/vocab.txt", "w").write("\\n".join([*words, *(f"##{word}" for word in words[5:])]))
torch.manual_seed(0)
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
transformers.BertModel(transformers.BertConfig(vocab_size=99, **sizes)).save_pretrained(f"{folder}/bert")
transformers.BertTokenizer(f"{folder}/vocab.txt").save_pretrained(f"{folder}/bert")
bert = modules.Transformer(f"{folder}/bert", max_seq_length=64)
SentenceTransformer(modules=[bert, modules.Pooling(16)], device="cpu").save(f"{folder}/model")
"""


def stages(folder: Path) -> dict[str, list[str]]:
    """Name -> command line, in the order of the pipeline; tokenizers and models are those of the registry."""
    shop = ["--set=source.users=300", "--set=source.items=150", "--set=source.text=0.0"]
    made = {"download": ["download", *shop], "preprocess": ["preprocess"]}
    for name in registry.names("tokenizer"):
        made[f"tokenize {name}"] = ["tokenize", f"--tokenizer={name}", "--codebooks=4", "--codewords=8"]
        if name == "text":
            made[f"tokenize {name}"] = ["tokenize", "--tokenizer=text"]
    made["vectors"] = ["tokenize", f"--encoder={folder / 'model'}", "--tokenizer=pq", "--set=encoder.batch_size=1"]
    made["vectors"] += ["--codebooks=4", "--codewords=8", "--pca=12", "--set=encoder.device=cpu"]
    models = [name for name in registry.names("model") if name != "blend"]  # the command blend makes it
    for name in sorted(models, key=lambda name: bool(registry.load("model", name).pretrained_by)):
        model = registry.load("model", name)
        small = [f"--set=model.{key}={value}" for key, value in SMALL.items() if key in model.Config.model_fields]
        inputs = [f"--codes={CODES}"] if "codes" in model.needs else []
        inputs += ["--vectors=lsa"] if "vectors" in model.needs else []
        inputs += [f"--init-from={model.pretrained_by}-s0"] if model.pretrained_by else []
        made[f"train {name}"] = ["train", f"--model={name}", *inputs, *small, *(TRAIN if model.trainable else [])]
    for name in models:
        made[f"evaluate {name}"] = ["evaluate", f"--run={name}-s0", "--device=cpu"]
    made["blend"] = ["blend", "sasrec-s0", "transitions-s0", "--device=cpu"]
    made["compare"] = ["compare", "sasrec-s0", "popular-s0"]
    made["case-study"] = ["case-study", "sasrec-s0", "popular-s0", "--users=3", "--device=cpu"]
    made["sweep"] = ["sweep", str(folder / "sweep.toml"), "--seeds=0,1", "--device=cpu"]
    made["figures"] = ["figures", "mhl-s0", "--device=cpu"]
    return made


def start(words: list[str], root: Path) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GENREC_")}
    kept |= {"OMP_NUM_THREADS": "1", "GENREC_ENCODER": "lsa", "GENREC_ROOT": str(root), "GENREC_DATASET": "synthetic"}
    with (root.parent / f"{root.name}.log").open("a") as log:
        command = [sys.executable, "-m", "genrec_cli", *words]
        return subprocess.Popen(command, env=kept, stdout=log, stderr=log, start_new_session=True)


def finish(words: list[str], root: Path) -> float:
    """Run a command to its end; its duration in seconds."""
    began = time.monotonic()
    if code := start(words, root).wait():
        raise SystemExit(f"'genrec {' '.join(words)}' ends with exit code {code}: see {root}.log")
    return time.monotonic() - began


def artifacts(root: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(root)) for path in root.glob("*/*/*/manifest.json"))


def contents(root: Path, made: list[str]) -> dict[str, str]:
    """File or ``file:column`` -> digest, of every file of some artifacts; of a manifest its key and configuration."""
    found = {}
    for path in sorted(file for folder in made for file in (root / folder).rglob("*") if file.is_file()):
        name = str(path.relative_to(root))
        if path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            found[name] = json.dumps([manifest["key"], manifest["config"], sorted(manifest["files"])])
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            found |= {f"{name}:{column}": str(table[column].to_pylist()) for column in table.column_names}
        else:
            found[name] = sha256_file(path)
    return found


def undisturbed(folder: Path, commands: dict[str, list[str]]) -> dict[str, dict]:
    """Stage -> its seconds, the artifacts before it, those it makes, their contents, and what varies by itself."""
    known = folder / "undisturbed.json"
    facts: dict[str, dict] = json.loads(known.read_text()) if known.exists() else {}
    if any(fact["words"] != commands.get(name, fact["words"]) for name, fact in facts.items()):
        raise SystemExit(f"{known} is of other commands: choose an empty --root")
    for name, words in commands.items():
        if name in facts:
            continue
        before = artifacts(folder / "whole")
        seconds = [finish(words, folder / root) for root in ("whole", "again")]
        made = [path for path in artifacts(folder / "whole") if path not in before]
        whole, again = (contents(folder / root, made) for root in ("whole", "again"))
        varies = sorted(file for file in whole.keys() | again.keys() if whole.get(file) != again.get(file))
        facts[name] = {"words": words, "seconds": max(seconds), "before": before, "made": made}
        facts[name] |= {"contents": whole, "varies": varies}
        known.write_text(json.dumps(facts))
        print(f"{name}: {max(seconds):.1f} s, {len(whole)} files and columns, {len(varies)} vary", file=sys.stderr)
    return facts


def killed(folder: Path, words: list[str], fact: dict, draw: random.Random) -> dict:
    """Kill a stage once or more, finish it, and compare. Kills that came too late are not counted."""
    root = folder / "killed"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path in fact["before"]:
        shutil.copytree(folder / "whole" / path, root / path)
    moments = []
    while not moments or draw.random() < 0.5:
        moments.append(draw.uniform(0, fact["seconds"]))
        process = start(words, root)
        time.sleep(moments[-1])
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            moments.pop()
            break
    finish(words, root)
    found, expected = contents(root, fact["made"]), fact["contents"]
    differing = {file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file)}
    extra = [path for path in artifacts(root) if path not in fact["before"] + fact["made"]]
    return {"kills": len(moments), "moments": moments, "differs": sorted(differing - {*fact["varies"]}) + extra}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="*", help="parts of their names; default: all")
    options = parser.parse_args()
    folder = options.root.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        subprocess.run([sys.executable, "-c", SENTENCES, str(folder)], check=True)
    (folder / "sweep.toml").write_text(SWEEP)
    commands = stages(folder)
    chosen = [name for name in commands if not options.stages or any(part in name for part in options.stages)]
    last = max(map(list(commands).index, chosen))
    facts = undisturbed(folder, dict(list(commands.items())[: last + 1]))
    journal = folder / f"kills-{options.seed}.jsonl"
    rounds = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    while (count := sum(row["kills"] for row in rounds)) < options.kills:
        draw = random.Random(f"{options.seed}-{len(rounds)}")
        stage = draw.choice(chosen)
        rounds.append({"stage": stage} | killed(folder, commands[stage], facts[stage], draw))
        with journal.open("a") as stream:
            stream.write(json.dumps(rounds[-1]) + "\n")
        print(f"{count + rounds[-1]['kills']} kills: {stage} {rounds[-1]['differs'] or 'is the same'}", file=sys.stderr)
    kills, differ = Counter(), Counter()
    for row in rounds:
        kills[row["stage"]] += row["kills"]
        differ[row["stage"]] += bool(row["differs"])
    lines = [[name, round(facts[name]["seconds"], 1), kills[name], differ[name]] for name in facts]
    print(markdown(["stage", "seconds", "kills", "differ"], lines))
    varies = {name: fact["varies"] for name, fact in facts.items() if fact["varies"]}
    total = {"kills": kills.total(), "rounds": len(rounds), "differ": differ.total(), "by_stage": kills}
    print(json.dumps(total | {"vary_undisturbed": varies}))


if __name__ == "__main__":
    main()
