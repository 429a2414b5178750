"""The contract suite: what every model must do, as tests that a plug-in gets by an import.

    from genrec_cli.testing import ModelContract

    class TestMine(ModelContract):
        kind = Mine

pytest then runs every test over small data made in memory. It needs the packages pytest and torch.
"""

from genrec_cli.testing.contract import ModelContract
from genrec_cli.testing.data import all_codes, make_catalog, make_histories

__all__ = ["ModelContract", "all_codes", "make_catalog", "make_histories"]
