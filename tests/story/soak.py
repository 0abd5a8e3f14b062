"""Short jobs on real machines while everything that can die dies: agents, the controller, the roll, the master.

Two rolls go through the group meanwhile. At the end every job has run to its end, none was killed by the product, and no
machine is left. What happens when comes from a seed, which is printed; how the machine interleaves it does not.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

import harness
from harness import until

GROUP = "soak"
RECIPE = """\
# A worker of the soak: ci-worker with a number.
schema: piaas-bake/v1
name: soak-worker
version: 1.0.0
description: A worker for the soak.
from: { recipe: ci-worker, version: ^1 }
parameters:
  number: { type: integer, default: 1, description: Which image of the soak this is. }
steps:
  - name: Keep the number
    run: printf '%s\\n' {{ number }} >/etc/soak-number
test:
  - name: It is there
    run: test -s /etc/soak-number
"""


class Soak:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.work = pathlib.Path(options.work)
        self.problems = []
        self.counts = dict.fromkeys(("agent kills", "controller kills", "roll kills", "master restarts", "rolls"), 0)
        self.done = threading.Event()
        self.controller_lock = threading.Lock()
        self.controller = None
        self.controller_log = open(self.work / "fleet.log", "a")
        # Instance -> when it was first seen to be on its way out.
        self.ending = {}
        self.most = 0
