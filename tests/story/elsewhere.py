"""Bakes in a machine of its own, in QEMU: with another kernel, under a systemd that has booted, on another day, and without
any network. The machine is an image that piaas-bake has baked. PIAAS_VM_ACCEL=kvm where that works; else it is slow.
"""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import time

RECIPE = """\
schema: piaas-bake/v1
name: bake-host
version: 1.0.0
description: A machine on which piaas-bake bakes.
from: { ssm: /aws/service/debian/release/12/latest/amd64 }
packages: [systemd-container, slirp4netns, mmdebstrap, util-linux-extra, xz-utils, zstd]
"""
# What it runs in the place of everything else (systemd-run-generator(8)). All that it has to say goes to the console.
SCRIPT = """\
#!/bin/sh
exec >/dev/ttyS0 2>&1
set -u
cd /data
export HOME=/root LC_ALL=C.UTF-8 PIAAS_CLOUD=local PIAAS_RECIPES=/data/recipes PIAAS_CACHE_DIR=/data/cache PIAAS_STATE_DIR=/data/state
echo "elsewhere: it is $(date -u +%FT%TZ) with kernel $(uname -r)"
for recipe in {recipes}; do
    ./piaas-bake bake "$recipe" --locked --offline --no-cache --format json >baked || {{
        echo "elsewhere: $recipe could not be baked"
        continue
    }}
    ./piaas-bake images show "$recipe" --format json >shown
    disk=$(sed -n 's/^ *"disk": "\\(.*\\)",*$/\\1/p' shown)
    # Its checksum comes after the disk: the writer holds the lock until it is there.
    echo "elsewhere: disk of $recipe: $(flock --shared "$disk/lock" cat "$disk/disk.json")"
done
echo "elsewhere: done"
"""
DAYS = 400 * 24 * 3600


def bake(binary, env, work, recipes, cache, wanted):
    """The disks' SHA-256 by recipe, from a machine that has these recipes with their lock files, and these files of packages."""
    work.mkdir()
    mine = work / "host-recipes"
    (mine / "bake-host").mkdir(parents=True)
    (mine / "bake-host" / "recipe.yaml").write_text(RECIPE)
    env = dict(env, PIAAS_RECIPES=str(mine))

    def run(*args):
        done = subprocess.run([binary, *args], env=env, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    image = json.loads(run("bake", "bake-host", "--format", "json"))["image_id"]
    shown = json.loads(run("images", "show", image, "--format", "json"))
    root = work / "root.raw"
    run("images", "export", image, "-o", str(root))
    report = report_of(pathlib.Path(shown["disk"]))
    # A base image that is here has the kernel's files, too.
    version = report["kernels"][0]
    kernel = next(pathlib.Path(env["PIAAS_CACHE_DIR"]).glob(f"base/*/boot/vmlinuz-{version}"))
    start = ["-kernel", kernel, "-initrd", kernel.with_name(f"initrd.img-{version}")]
    data = carry(binary, work, recipes, cache, wanted)
    return boot_and_read(work, wanted, start, report["command_line"], root, data)


def report_of(snapshot):
    """What is on the disk in a snapshot's directory. Its checksum comes after the disk: the writer holds the lock until it is
    there."""
    with open(snapshot / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    return json.loads((snapshot / "disk.json").read_text())


def carry(binary, work, recipes, cache, wanted):
    """A disk with everything that is needed, and room to work in."""
    there = work / "data"
    there.mkdir()
    for program in ("piaas-bake", "piaas-worker"):
        shutil.copy2(pathlib.Path(binary).with_name(program), there / program)
    shutil.copytree(recipes, there / "recipes")
    shutil.copytree(cache / "debs", there / "cache/debs")
    (there / "run.sh").write_text(SCRIPT.format(recipes=" ".join(wanted)))
    disk = work / "data.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", there, disk, "24G"], check=True)
    shutil.rmtree(there)
    return disk


def boot_and_read(work, wanted, start, line, root, data):
    console = work / "console.log"
    run = "/bin/sh -c 'mkdir -p /data && mount /dev/vdb /data && exec /bin/sh /data/run.sh'"
    ends = "systemd.run_success_action=poweroff systemd.run_failure_action=poweroff"
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + DAYS))
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", os.environ.get("PIAAS_VM_ACCEL", "tcg"), "-cpu", "max",
        "-smp", str(min(4, os.cpu_count() or 1)), "-m", "6144", "-nodefaults", "-no-reboot", "-display", "none",
        "-nic", "none", "-rtc", f"base={day}", "-serial", f"file:{console}",
        *start, "-append", f'{line} quiet loglevel=1 console=ttyS0 systemd.run="{run}" {ends}',
        "-drive", f"file={root},if=virtio,format=raw,snapshot=on",
        "-drive", f"file={data},if=virtio,format=raw,cache=unsafe",
    ]
    subprocess.run(command, check=True, timeout=4 * 3600)
    text = console.read_text(errors="replace")
    disks, told = {}, []
    for said in text.splitlines():
        if "elsewhere: " in said:
            told.append(said.split("elsewhere: ", 1)[1].strip())
            if told[-1].startswith("disk of "):
                recipe, report = told[-1].removeprefix("disk of ").split(": ", 1)
                disks[recipe] = json.loads(report)["disk_sha256"]
    if not told or told[-1] != "done" or set(disks) != set(wanted):
        raise SystemExit(f"the machine did not come to its end:\n{text[-4000:]}")
    return disks, told[0]
