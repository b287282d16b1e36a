"""A multiprocessing pool whose children report; run with the start method's name."""

import json
import multiprocessing
import os
import sys

from tests.servers.work import report

CHILDREN = 2
TASKS = 8


def main(method):
    """All of it."""
    with multiprocessing.get_context(method).Pool(CHILDREN) as pool:
        found = pool.map(report, [f"nonce-{n}" for n in range(TASKS)], chunksize=1)
        found.append(pool.apply(report, ["leaving-late"]))
        pool.close()
        pool.join()
    with open(os.environ["REPORTS"], "w") as reports:
        reports.writelines(json.dumps(one) + "\n" for one in found)


if __name__ == "__main__":
    main(sys.argv[1])
