"""The whole story in one go, on real machines: an image, a fleet, a roll in the middle of jobs, a bad image, and home.

Prints a timeline while it happens and a picture of it at the end.
"""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import say, until
from timeline import Timeline

GROUP = "demo-workers"
MOST = 4
FLEET = """\
schema: piaas-bake/fleet/v1
group: {group}
demand:
  buildbot: {{ url: "{url}", worker: "ci-{{instance}}" }}
idle_after: 20s
interval: 1s
"""
RECIPE = """\
# The worker of the demo: ci-worker, and what its team wants on it.
schema: piaas-bake/v1
name: demo-worker
version: 1.0.0
description: A Buildbot worker with tools.
from: { recipe: ci-worker, version: ^1 }
packages:
  - tree
steps:
  - name: Say who made it
    run: echo 'tools of the demo' >/etc/demo-worker
test:
  - name: The tools are there
    run: tree --version
"""
# What somebody changes in it later.
GOOD = {"version: 1.0.0": "version: 1.1.0", "packages:\n": "packages:\n  - jq\n"}
BAD = {
    "version: 1.0.0": "version: 1.2.0",
    "packages:\n": "packages:\n  - jq\n",
    # The machine of a bake has no master, so its tests pass.
    "steps:\n": """\
files:
  - path: /etc/systemd/system/team-settings.service
    content: |
      [Unit]
      Description=Settings of the team, from the user data
      Wants=network-online.target
      After=network-online.target
      [Service]
      Type=oneshot
      ExecStart=/usr/local/libexec/team-settings
      [Install]
      WantedBy=multi-user.target
  - path: /usr/local/libexec/team-settings
    mode: "0755"
    content: |
      #!/bin/sh
      imds=http://169.254.169.254/latest
      token=$(curl -sfX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $imds/api/token) || exit 0
      data=$(curl -sf -H "X-aws-ec2-metadata-token: $token" $imds/user-data) || exit 0
      case $data in *ci-master-host=*) echo "$data" | grep '^team=' ;; esac
steps:
  - name: Read the settings of the team at boot
    run: systemctl enable team-settings.service
""",
}


class Demo:
    def __init__(self, options):
        self.options = options
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="piaas-demo-"))
        self.line = Timeline()
        self.recipes = self.work / "recipes"
        shutil.copytree(harness.ROOT / "recipes", self.recipes)
        self.product = harness.Product(options.binary, recipes=self.recipes)
        self.images = []
        self.over = threading.Event()
        self.standing = {}
        self.job = 0
        self.told = set()
        self.processes = []

    # Images

    def bake(self, number, edits):
        """Bakes the recipe as somebody has edited it."""
        recipe = self.recipes / "demo-worker" / "recipe.yaml"
        text = RECIPE
        for old, new in edits.items():
            if text.count(old) != 1:
                raise RuntimeError(f"the recipe has not one {old!r}")
            text = text.replace(old, new)
        recipe.parent.mkdir(exist_ok=True)
        recipe.write_text(text)
        return self.build(f"image {number}", "demo-worker")

    def build(self, who, recipe):
        """Bakes a recipe and tells how it goes on."""
        began = time.monotonic()
        process = self.product.start(
            "bake", recipe, "--format", "ndjson", stdout=subprocess.PIPE, stderr=open(self.work / "bake.log", "w")
        )
        self.processes.append(process)
        chapter, last = None, {}
        for text in process.stdout:
            last = json.loads(text)
            if last.get("event") == "started":
                chapter = self.line.chapter(f"bake {who}")
                self.line.line(who, f"a bake of {last['recipe']} {last['version']} starts from {last['start_image']}, digest {last['digest'][:12]}")
            elif last.get("event") == "phase-started" and not self.images:
                self.line.line(who, f"  {last['phase'].replace('-', ' ')}")
        if process.wait():
            raise RuntimeError(f"bake {recipe} ended with exit code {process.returncode}:\n{(self.work / 'bake.log').read_text()[-3000:]}")
        if chapter:
            self.line.close(chapter)
            self.line.line(who, f"{last['result']['image_id']} baked, booted and tested in {time.monotonic() - began:.0f} s")
        else:
            self.line.line(who, f"{last['result']['image_id']} is there already: the same recipe, the same digest")
        if recipe == "demo-worker":
            self.images.append(last["result"]["image_id"])
        return last["result"]["image_id"]

    # The fleet

    def worker(self, instance):
        return f"worker {self.line.name(instance)}"

    def follow_fleet(self):
        for text in self.fleet.stdout:
            try:
                event = json.loads(text)
            except ValueError:
                continue
            if event.get("event") == "looked":
                self.looked(event)
            elif event.get("event") == "decided":
                self.decided(event["decision"])
            elif event.get("event") == "alarm":
                alarm = event["alarm"]
                if alarm["about"] not in self.told:
                    self.told.add(alarm["about"])
                    self.line.line("alarm", alarm["text"])

    def looked(self, view):
        rows = {row["id"]: row for row in view["workers"]}
        for instance, row in rows.items():
            state = {
                "booting": "boots", "busy": "busy", "idle": "idle", "unknown": "unknown", "draining": "winds up",
                "drained": "drained", "leaving": "drained", "ending": "drained",
            }.get(row["state"], "unknown")
            new = instance not in self.standing
            self.standing[instance] = state
            changed = self.line.state(instance, state)
            if row.get("version"):
                self.line.versions[self.line.name(instance)] = f"v{row['version']}"
            if new and state == "boots":
                self.line.line(self.worker(instance), f"{instance} boots, launch template version {row.get('version')}")
            elif changed and state == "idle" and instance not in self.told:
                self.told.add(instance)
                self.line.line(self.worker(instance), "is up and waits for a job")
            elif changed and state == "unknown":
                self.line.line(self.worker(instance), f"unknown: {row.get('note')}")
        for instance in set(self.standing) - set(rows):
            del self.standing[instance]
            self.line.state(instance, None)
            self.line.line(self.worker(instance), "is gone")

    def decided(self, decision):
        instance = decision.get("id")
        if decision["do"] == "launch":
            self.line.line("fleet", f"one more worker: {decision['why']}" if decision["count"] == 1 else f"{decision['count']} more workers: {decision['why']}")
        elif decision["do"] == "cordon":
            self.line.line(self.worker(instance), f"takes no more jobs: {decision['why']}")
        elif decision["do"] == "uncordon":
            self.line.line(self.worker(instance), f"takes jobs again: {decision['why']}")
        elif decision["do"] == "terminate":
            self.line.line(self.worker(instance), f"is drained, by its own word; it is shut down and deleted")

    # Jobs

    def submit(self, seconds):
        self.job += 1
        self.master.force(self.job, self.ledger.command(self.job, seconds))
        self.line.line("jobs", f"job {self.job} arrives, {seconds} s of work")

    def follow_jobs(self):
        seen = {}
        while not self.over.wait(0.4):
            try:
                builds = self.master.builds()
            except OSError:
                continue
            for build in builds:
                instance = (build["worker"] or "").removeprefix("ci-")
                before = seen.get(build["number"], "new")
                if before == "new" and build["worker"]:
                    self.line.line(self.worker(instance), f"job {build['job']} begins")
                    seen[build["number"]] = None
                    before = None
                if before is None and build["result"] is not None:
                    how = "done" if build["result"] == 0 else f"FAILED with result {build['result']}"
                    self.line.line(self.worker(instance), f"job {build['job']} {how}")
                    seen[build["number"]] = build["result"]

    def keep_busy(self, until_set):
        """Work goes on arriving, as it does."""
        while not until_set.wait(12) and not self.over.is_set():
            if self.master.queue() == 0:
                self.submit(20)

    # Rolls

    def roll(self, number, image, expected):
        chapter = self.line.chapter(f"roll to image {number}")
        self.line.line("roll", f"to image {number}: a canary first, then worker by worker, none while it has a job")
        process = self.product.start(
            "roll", "start", GROUP, "--image", image, "--yes", "--warmup", "0s", "--format", "ndjson",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        last = None
        for text in process.stdout:
            try:
                event = json.loads(text)
            except ValueError:
                continue
            kind = event.get("event")
            if kind == "difference":
                for field in event["fields"]:
                    self.line.line("roll", f"version {event['version']} differs in {field['field']}: {field['old']} -> {field['new']}")
            elif kind == "turned-back":
                self.line.line("roll", f"turns back: {event['reason']}")
            elif kind == "looked":
                canary = event.get("canary")
                share = (event["there"], event["there"] + event["others"])
                now = f"canary {canary[0]} is {canary[1]}" if canary else f"{share[0]} of {share[1]} workers run the version it goes to"
                if now != last:
                    self.line.line("roll", now)
                    last = now
            elif kind == "ended":
                versions = sorted({row["version"] for row in event["instances"]})
                self.line.line(
                    "roll",
                    f"{event['outcome'].replace('-', ' ')}; proved: the group launches version {event['group_version']}, "
                    f"{len(event['instances'])} workers run {versions}",
                )
        code = process.wait()
        self.line.close(chapter)
        if code != expected:
            raise RuntimeError(f"roll start ended with exit code {code}, not {expected}:\n{process.stderr.read()[-3000:]}")

    # The story

    def leftovers(self):
        """What a demo that was killed has left of its group."""
        if self.cloud.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]:
            self.line.line("clean up", f"the group {GROUP} of a demo before this one")
            self.cloud.scaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP, ForceDelete=True)
            until("the old group to be gone", lambda: not self.cloud.scaling.describe_auto_scaling_groups(
                AutoScalingGroupNames=[GROUP])["AutoScalingGroups"])
        for one in self.cloud.ec2.describe_launch_templates()["LaunchTemplates"]:
            if one["LaunchTemplateName"] == GROUP:
                self.cloud.ec2.delete_launch_template(LaunchTemplateId=one["LaunchTemplateId"])

    def tell(self):
        line = self.line
        self.build("ci-worker", "ci-worker")
        first = self.bake(1, {})
        self.cloud = harness.Cloud(self.product)
        self.leftovers()
        self.before = set(self.cloud.machines())
        self.ledger = harness.Ledger()
        self.master = harness.Master(self.options.buildbot, self.work / "master")
        self.master.start()
        self.ports = (self.master.worker_port, self.ledger.port)
        self.cloud.expose(*self.ports)
        line.line("master", f"Buildbot answers at {self.master.url}; look in while this goes on")
        self.group = harness.Group(self.cloud, GROUP, first, 0, MOST, 2, self.master.worker_settings(self.cloud))
        line.line("group", f"{GROUP}: 0 to {MOST} workers, 2 to begin with, launch template version 1 with image 1")
        config = self.work / "fleet.yaml"
        config.write_text(FLEET.format(group=GROUP, url=self.master.url))
        self.fleet = self.product.start(
            "fleet", "run", "--config", config, "--format", "ndjson",
            stdout=subprocess.PIPE, stderr=open(self.work / "fleet.log", "w"),
        )
        self.processes.append(self.fleet)
        line.line("fleet", f"the controller runs; ask it: {self.options.binary} fleet status --config {config}")
        for follow in (self.follow_fleet, self.follow_jobs):
            threading.Thread(target=follow, daemon=True).start()
        until("two idle workers", lambda: list(self.standing.values()).count("idle") == 2)

        for _ in range(3):
            self.submit(30)
        until("a third worker with a job", lambda: list(self.standing.values()).count("busy") >= 3)

        calm = threading.Event()
        threading.Thread(target=self.keep_busy, args=(calm,), daemon=True).start()
        line.line("recipe", "somebody adds the package jq")
        second = self.bake(2, GOOD)
        self.roll(2, second, 0)

        line.line("recipe", "somebody adds a unit that wants a setting which this group does not give; its tests pass all the same")
        third = self.bake(3, BAD)
        self.roll(3, third, 8)
        calm.set()

        line.line("jobs", "no more arrive")
        until("all jobs to be done", lambda: self.master.queue() == 0 and all(
            build["result"] is not None for build in self.master.builds()), 300)
        until("all workers to go", lambda: not self.group.members(), 300)
        self.fleet.terminate()
        self.fleet.wait(60)
        self.group.remove()
        self.cloud.hide(*self.ports)
        self.forget_images()
        self.judge()

    def judge(self):
        builds = self.master.builds()
        failed = [build for build in builds if build["result"] != 0]
        unended = [key for key, run in self.ledger.snapshot().items() if run["ended"] is None]
        machines = set(self.cloud.machines()) - self.before
        self.line.end()
        title = "piaas-bake: an image, a fleet, a roll in the middle of jobs, a bad image, and home"
        picture = pathlib.Path(self.options.picture)
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(self.line.as_svg(title))
        print(f"\n{self.line.as_text()}\n\npicture: {picture}\n")
        print(f"Jobs run: {self.job}. Jobs failed by our hand: {len(failed) + len(unended)}. Machines left: {len(machines)}.", flush=True)
        if failed or unended or machines or len(builds) < self.job:
            raise RuntimeError(f"failed {failed}, cut off {unended}, machines {sorted(machines)}, builds {len(builds)}")

    def forget_images(self):
        """The images of the story are of no further use; that of ci-worker, on which they stand, stays."""
        for image in self.images:
            [found] = self.cloud.ec2.describe_images(ImageIds=[image])["Images"]
            self.cloud.ec2.deregister_image(ImageId=image)
            for mapping in found["BlockDeviceMappings"]:
                self.cloud.ec2.delete_snapshot(SnapshotId=mapping["Ebs"]["SnapshotId"])

    def close(self):
        self.over.set()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        for name in ("group", "master", "ledger", "cloud"):
            part = getattr(self, name, None)
            try:
                if name == "group" and part and part.describe():
                    say("demo: it did not end well; its workers are removed")
                    part.remove()
                    self.forget_images()
                elif name == "master" and part:
                    part.stop()
                elif name in ("ledger", "cloud") and part:
                    if name == "cloud" and hasattr(self, "ports"):
                        part.hide(*self.ports)
                    part.close()
            except Exception as error:  # the next part must be closed all the same
                say(f"demo: cannot close the {name}: {error}")
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="piaas-bake")
    parser.add_argument("--buildbot", required=True, help="Python environment of the master")
    parser.add_argument("--picture", required=True, help="where the picture goes (SVG)")
    options = parser.parse_args()
    harness.end_on_signals()
    demo = Demo(options)
    try:
        demo.tell()
    except KeyboardInterrupt:
        say("demo: interrupted")
        sys.exit(130)
    finally:
        demo.close()


if __name__ == "__main__":
    main()
