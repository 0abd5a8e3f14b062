"""Short jobs on real machines while everything that can die dies: worker agents, the controller, the roll, the master.

Two rolls go through the group meanwhile. At the end every job has run to its end, none was killed by the product, and no
machine is left. What happens when comes from a seed, which is printed; how the machine interleaves it does not.
"""

import argparse
import contextlib
import datetime
import http.client
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import harness
from harness import say, until

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
FLEET = """\
schema: piaas-bake/fleet/v1
group: {group}
demand:
  buildbot: {{ url: "{url}", worker: "ci-{{instance}}" }}
idle_after: 4s
interval: 1s
boot_deadline: 3m
leak_after: 2m
"""
# A job that was cut off this long (seconds) before its machine began to end died with its machine.
CLOSE = 2.0


# Buildbot's result of a build that was cancelled (buildbot.process.results).
CANCELLED = 6


class Soak:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.work = pathlib.Path(options.work)
        self.counts = dict.fromkeys(("agent kills", "controller kills", "roll kills", "master restarts", "rolls"), 0)
        self.problems = []
        self.over = threading.Event()
        self.controller = None
        self.lock = threading.Lock()
        # Instance -> when it was first seen to be on its way out, seconds of this host's clock.
        self.ending = {}
        # When the master was away: it ends what it runs, and workers end what they run for a master that is gone.
        self.outages = []
        self.most = 0
        self.submitted = 0
        self.roller = None
        self.cancelled = set()

    # Setting up

    def recipes(self):
        recipes = self.work / "recipes"
        shutil.copytree(harness.ROOT / "recipes", recipes)
        (recipes / "soak-worker").mkdir()
        (recipes / "soak-worker" / "recipe.yaml").write_text(RECIPE)
        return recipes

    def bake(self, number):
        baked, _ = self.product.run("bake", "soak-worker", "--set", f"number={number}")
        say(f"soak: image {number} is {baked['image_id']}")
        return baked["image_id"]

    def run(self):
        self.product = harness.Product(self.options.binary, self.work / "state", self.recipes())
        # The three stand on it, and are small.
        self.product.run("bake", "ci-worker")
        images = [self.bake(number) for number in (1, 2, 3)]
        self.cloud = harness.Cloud(self.product)
        self.ledger = harness.Ledger()
        self.master = harness.Master(self.options.buildbot, self.work / "master")
        self.master.start()
        self.cloud.expose(self.master.worker_port, self.ledger.port)
        self.group = harness.Group(
            self.cloud, GROUP, images[0], 0, self.options.workers, 1, self.master.worker_settings(self.cloud)
        )
        (self.work / "fleet.yaml").write_text(FLEET.format(group=GROUP, url=self.master.url))
        self.log = open(self.work / "fleet.log", "a")
        threads = [
            threading.Thread(target=self.guarded, args=(work,), name=work.__name__)
            for work in (self.control, self.watch, self.submit, self.kill_agents, self.kill_controllers, self.restart_master)
        ]
        self.start_controller()
        for thread in threads:
            thread.start()
        try:
            self.roll(images[1], 0.2)
            self.roll(images[2], 0.55)
            self.wait_for_jobs()
            until("the last worker to go", lambda: self.failed() or not self.cloud.machines(), 300)
        finally:
            self.over.set()
            for thread in threads:
                thread.join(120)
            self.end_controller(signal.SIGTERM)
        self.judge()

    def guarded(self, work):
        """A thread that fails fails the soak."""
        try:
            work()
        except Exception as error:  # whatever it is, it is the soak's result
            self.problems.append(f"{work.__name__}: {type(error).__name__}: {error}")

    def failed(self):
        if self.problems:
            raise RuntimeError("; ".join(self.problems))
        return False

    def pause(self, least, most):
        """Between two blows; false once it is over."""
        return not self.over.wait(self.random.uniform(least, most))

    # What goes on meanwhile

    def start_controller(self):
        with self.lock:
            self.controller = self.product.start(
                "fleet", "run", "--config", self.work / "fleet.yaml", "--format", "ndjson",
                stdout=self.log, stderr=self.log,
            )

    def end_controller(self, how):
        with self.lock:
            if self.controller.poll() is None:
                self.controller.send_signal(how)
                self.controller.wait(60)

    def control(self):
        """Whenever the controller has ended, starts it again."""
        while self.pause(0.2, 1.5):
            if self.controller.poll() is not None:
                self.start_controller()

    def kill_controllers(self):
        while self.pause(4, 12):
            self.end_controller(signal.SIGKILL)
            self.counts["controller kills"] += 1

    def kill_agents(self):
        while self.pause(3, 9):
            members = self.group.in_service()
            if members:
                victim = self.random.choice(members)
                try:
                    self.cloud.ssm.send_command(
                        InstanceIds=[victim], DocumentName="AWS-RunShellScript",
                        Parameters={"commands": ["systemctl kill --kill-whom=main --signal=KILL piaas-worker.service"]},
                    )
                except self.cloud.ssm.exceptions.InvalidInstanceId:
                    continue  # it has gone meanwhile
                self.counts["agent kills"] += 1

    def restart_master(self):
        for share in (0.35, 0.75):
            until("jobs to be done", lambda share=share: self.over.is_set() or self.share() >= share, 1200)
            if self.over.is_set():
                return
            began = time.time()
            self.master.stop(self.random.choice([signal.SIGTERM, signal.SIGKILL]))
            self.pause(0.5, 3)
            self.master.start()
            self.outages.append((began, time.time()))
            self.counts["master restarts"] += 1
            self.ask_again()

    def submit(self):
        """Jobs come in bursts."""
        while self.submitted < self.options.jobs and self.pause(0.5, 6):
            for _ in range(self.random.randint(1, 12)):
                if self.submitted < self.options.jobs:
                    self.ask(self.submitted)
                    self.submitted += 1

    def ask_again(self):
        """A master that is shut down cancels builds that are about to begin a step, and does not repeat them: whoever
        wants them asks again."""
        for build in self.master.builds():
            if build["result"] == CANCELLED and build["number"] not in self.cancelled:
                self.cancelled.add(build["number"])
                self.ask(build["job"])

    def ask(self, job):
        command = self.ledger.command(job, self.random.randint(1, 5))

        def asked():
            try:
                self.master.force(job, command)
            except (OSError, http.client.HTTPException, ValueError):
                return False  # the master is away, or went away amid its answer
            return True

        until(f"job {job} to be taken", asked, 120, 0.5)

    def watch(self):
        while not self.over.wait(0.2):
            now = time.time()
            alive = 0
            for page in self.cloud.ec2.get_paginator("describe_instances").paginate():
                for one in (one for r in page["Reservations"] for one in r["Instances"]):
                    if one["State"]["Name"] in ("pending", "running"):
                        alive += 1
                    else:
                        self.ending.setdefault(one["InstanceId"], now)
            self.most = max(self.most, alive)

    def roll(self, image, share):
        until("jobs to be done", lambda: self.failed() or self.share() >= share, 1200)
        self.counts["rolls"] += 1
        verb = ("start", GROUP, "--image", image, "--yes", "--warmup", "0s")
        deadline = time.monotonic() + 900
        kills = self.random.randint(1, 2)
        path = self.work / "roll.log"
        while True:
            with open(path, "a") as log:
                before = len(path.read_text())
                process = self.roller = self.product.start("roll", *verb, "--format", "ndjson", stdout=log, stderr=log)
                # What is not written down yet cannot be picked up: it tells of itself once it is.
                until(
                    "the roll to begin",
                    lambda: '"of":"roll"' in path.read_text()[before:] or process.poll() is not None,
                )
                patience = self.random.uniform(2, 8) if kills else 600
                ended = time.monotonic() + patience
                while process.poll() is None and time.monotonic() < ended:
                    self.failed()
                    time.sleep(0.05)
                code = process.poll()
                if code is None:
                    process.kill()
                    process.wait()
                    if not kills:
                        raise TimeoutError(f"the roll to {image} has not ended in {patience} s")
                    self.counts["roll kills"] += 1
                    kills -= 1
                    # What is half done is picked up.
                    verb = ("watch", GROUP)
                    continue
            self.failed()
            if code == 0:
                launched = self.group.image()
                assert launched == image, f"the roll to {image} is done, and the group launches {launched}"
                say(f"soak: the roll to {image} is done; {self.counts}")
                return
            if time.monotonic() > deadline or code not in (9, 10):
                tail = path.read_text()[-3000:]
                raise RuntimeError(f"roll {' '.join(verb)}: exit code {code}\n{tail}")

    # The end

    def done(self):
        return {job for (job, _, _), run in self.ledger.snapshot().items() if run["ended"]}

    def share(self):
        return len(self.done()) / self.options.jobs

    def wait_for_jobs(self):
        everything = set(range(self.options.jobs))
        last, at = -1, time.monotonic()
        while not everything <= self.done():
            self.failed()
            done = len(self.done())
            if done != last:
                last, at = done, time.monotonic()
            elif time.monotonic() - at > 240:
                raise TimeoutError(f"no job has ended for 240 s; {done} of {self.options.jobs} are done")
            time.sleep(0.5)

    def killed(self):
        """Runs of jobs that were cut off by the end of their machine."""
        found = []
        for (job, instance, _), run in self.ledger.snapshot().items():
            end = self.ending.get(instance)
            cut_off = run["ended"] is None and end is not None and run["beat"] > end - CLOSE
            # A master that goes away ends its jobs itself.
            by_master = any(began - 1 <= run["beat"] <= ended + 5 for began, ended in self.outages)
            if cut_off and not by_master:
                found.append((job, instance, run, end))
        return found

    def unasked(self):
        """When the controller could not ask the master, although it was there."""
        found = []
        for text in (self.work / "fleet.log").read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                event = json.loads(text)
                if event["event"] == "alarm" and event["alarm"]["about"] == "demand":
                    at = datetime.datetime.fromisoformat(event["at"][:19] + "+00:00").timestamp()
                    if not any(began - 1 <= at <= ended + 5 for began, ended in self.outages):
                        found.append(event)
        return found

    def judge(self):
        runs = self.ledger.snapshot()
        builds = self.master.builds()
        succeeded = {build["job"] for build in builds if build["result"] == 0}
        lost = [build for build in builds if build["result"] not in (None, 0)]
        by_master = [
            build for build in lost
            if any(began - 2 <= build["ended"] <= ended + 10 for began, ended in self.outages)
        ]
        killed = self.killed()
        self.group.remove()
        machines = self.cloud.machines()
        print(
            f"soak: seed {self.options.seed}: {len(self.done())} of {self.options.jobs} jobs ran to their end in "
            f"{len(runs)} runs on {len({instance for _, instance, _ in runs})} machines, at most {self.most} at a time; "
            + ", ".join(f"{count} {what}" for what, count in self.counts.items())
            + f"; the master away for {', '.join(f'{ended - began:.0f} s' for began, ended in self.outages)}"
            + f"; runs ended by the master's restarts {len(by_master)} ({len(self.cancelled)} of them asked for again), jobs killed by us {len(killed)}, "
            f"machines left {len(machines)}",
            flush=True,
        )
        strangers = {instance for _, instance, _ in runs if not instance.startswith("i-")}
        assert not strangers, f"the ledger does not know the machines of its jobs: {strangers}"
        assert not killed, f"killed by the end of their machine: {killed}"
        assert len(lost) == len(by_master), f"builds that failed for no reason of the master's: {[b for b in lost if b not in by_master]}"
        assert succeeded >= set(range(self.options.jobs)), f"not run: {set(range(self.options.jobs)) - succeeded}"
        assert not self.unasked(), f"the master was there and could not be asked: {self.unasked()[:3]}"
        assert not machines, f"machines left: {machines}"
        assert self.most <= self.options.workers + 3, f"{self.most} machines at a time"
        for what, count in self.counts.items():
            assert count, f"no {what}: the soak proves less than it says"

    def autopsy(self, error):
        """What a failure leaves to look at, a line each: whoever reads the output may not have the files."""
        if hasattr(self, "group"):
            with contextlib.suppress(Exception):  # the cloud may be what has failed
                for member in self.group.members().values():
                    yield json.dumps(member, default=str)
        if hasattr(self, "master"):
            with contextlib.suppress(Exception):  # so may the master
                for build in self.master.builds():
                    if build["result"] is None:
                        yield f"still running: {build}"
        for log in ("roll.log", "fleet.log", "master/twistd.log"):
            with contextlib.suppress(OSError):
                lines = (self.work / log).read_text(errors="replace").splitlines()
                yield from (f"{log}: {line[:600]}" for line in lines[-12:])
        # What it was comes last: where only the end of an output is shown, it is there.
        yield f"{self.counts}; {self.problems}; {self.submitted} of {self.options.jobs} jobs asked for; see {self.work}"
        yield f"failed with seed {self.options.seed}: {type(error).__name__}: {error}"

    def close(self):
        self.over.set()
        if self.roller and self.roller.poll() is None:
            self.roller.kill()
            self.roller.wait()
        if self.controller:
            self.end_controller(signal.SIGKILL)
        for name in ("master", "ledger", "cloud"):
            if hasattr(self, name):
                part = getattr(self, name)
                part.stop() if name == "master" else part.close()
        if hasattr(self, "product"):
            self.product.run("cloud", "reset", "--yes")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="piaas-bake")
    parser.add_argument("--buildbot", required=True, help="Python environment of the master")
    parser.add_argument("--work", required=True, help="an empty directory")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=5, help="most workers at a time")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    harness.end_on_signals()
    say(f"soak: seed {options.seed}")
    soak = Soak(options)
    try:
        soak.run()
    except BaseException as error:
        for line in soak.autopsy(error):
            print("soak:", " ".join(line.split()), flush=True)
        raise
    finally:
        soak.close()


if __name__ == "__main__":
    main()
