"""MDGR's rows of ``bench/generate.py``: one per R_warm and m_par.

Random codes of 8 x 300 and random weights: the time of a search does not depend on them.
"""

from collections.abc import Callable

import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.mdgr import Mdgr, MdgrConfig
from genrec_cli.searches.diffusion import Diffusion, DiffusionConfig

DIGITS, CODEWORDS = 8, 300
WAYS = [(4, 2), (4, 4), (2, 2), (0, 2), (0, 4), (8, 1)]
"""R_warm and m_par: 6, 5, 5, 4, 2 and 8 passes; the paper's numbers first."""


def mdgr(items: int, beams: int, device: torch.device) -> dict[str, Callable[[Batch], object]]:
    """Searches by name, for ``bench/generate.py``."""
    codes = torch.randint(0, CODEWORDS, (items, DIGITS), generator=torch.Generator().manual_seed(0))
    catalog = Catalog.of(torch.ones(items, dtype=torch.long).to(device), codes.to(device), CODEWORDS)
    model = Mdgr(MdgrConfig(), catalog, max_length=20).to(device).eval()
    sides: dict[str, Callable[[Batch], object]] = {}
    for warmup, parallel in WAYS:
        config = DiffusionConfig(warmup=warmup, parallel=parallel, beams=beams)
        search = Diffusion(model, catalog, config)
        name = f"mdgr, R_warm {warmup}, m_par {parallel}, {len(search.steps)} passes"
        sides[name] = lambda batch, search=search: search.decode(batch, 10)
    return sides
