"""The long campaigns, for a release: kills by the hundred, in savers and in training runs.

    python tests/faults/campaign.py --kills 500 --seed 0                 at drawn events, as in the tests
    python tests/faults/campaign.py --kills 500 --seed 0 --clock         from outside, at random instants

Prints what was found, a line of JSON for each; exit code 1 when anything was lost or came out different. By the clock
nothing depends on which calls `tests/dying.py` knows; but what the kills meet depends on the machine.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from resuming import Runs
from saving import kill_savers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", action="store_true", help="kill from outside, at random instants")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (saves := Path(folder) / "saves").mkdir()
        saved = kill_savers("atomic", saves, given.kills, given.seed, given.clock)
        print(json.dumps({**saved, "places": sorted(saved["places"])}), flush=True)
        trained = Runs(Path(folder)).kill(given.kills, given.seed, given.clock)
        print(json.dumps(trained), flush=True)
    sys.exit(1 if saved["lost"] or trained["different"] else 0)
