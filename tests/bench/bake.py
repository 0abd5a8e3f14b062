"""Bakes of one machine beside mkosi: cold, after one changed step, and with nothing changed.

The same packages from the same archive, warm package caches on both sides, one after the other on this host. mkosi and
the systemd that it wants come from Debian's backports, in a root of their own. The debug archive, which mkosi's module
for Debian asks for too, is left out on both sides.

mkosi writes a disk. Ours writes a disk, boots it and tests it, and its cold bake also makes the base image.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ["cloud-init", "git", "curl", "jq", "openssh-server"]
SOURCES = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
RECIPE = """\
schema: piaas-bake/v1
name: worker
version: 1.0.0
description: What mkosi makes too.
from: {{ ssm: /aws/service/debian/release/12/latest/amd64 }}
packages: [{packages}]
steps:
  - name: The step
    run: echo {word} >/etc/step
"""
CONFIG = """\
[Distribution]
Distribution=debian
Release=bookworm
Mirror=http://deb.debian.org/debian
Repositories=main

[Output]
Format=disk
ImageId=worker
OutputDirectory=/bench/out

[Content]
Bootable=yes
Bootloader=systemd-boot
BuildSources=
WithDocs=yes
PostInstallationScripts=step
Packages={packages}
"""
# A mount namespace whose root is mkosi's: it asks for the file system of `/`.
ENTER = """\
set -eu
root=$1 work=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount --make-private "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/bench" "$root/old"
mount --bind "$work" "$root/bench"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cd "$root"
pivot_root . old
umount -l /old
cd /bench
exec mkosi "$@"
"""


def say(text):
    print(text, file=sys.stderr, flush=True)


def timed(command, log, env=None):
    """Seconds of a command that must succeed."""
    began = time.monotonic()
    with open(log, "ab") as out:
        done = subprocess.run(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env, cwd=ROOT, check=False)
    if done.returncode:
        tail = pathlib.Path(log).read_bytes()[-3000:].decode(errors="replace")
        raise SystemExit(f"{' '.join(map(str, command))[:200]}: exit code {done.returncode}\n{tail}")
    return time.monotonic() - began


class Mkosi:
    def __init__(self, root, work):
        self.root, self.work = root, work
        sources = work / "mkosi.pkgmngr/etc/apt/sources.list.d"
        sources.mkdir(parents=True)
        (sources / "mkosi.sources").write_text(SOURCES)
        # What the base image of the local cloud has, too.
        base = ["linux-image-cloud-amd64", "systemd", "systemd-sysv", "systemd-resolved", "udev", "dbus", "apt", "ca-certificates"]
        (work / "mkosi.conf").write_text(CONFIG.format(packages="".join(f"\n        {name}" for name in base + PACKAGES)))
        for name in ("out", "cache", "packages", "space"):
            (work / name).mkdir()
        self.step("one")

    def step(self, word):
        (self.work / "step").write_text(f'#!/bin/sh\necho {word} >"$BUILDROOT/etc/step"\n')
        (self.work / "step").chmod(0o755)

    def build(self, *more):
        env = dict(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
        places = ["--workspace-dir=/bench/space", "--cache-dir=/bench/cache", "--package-cache-dir=/bench/packages"]
        command = ["unshare", "-m", "sh", "-c", ENTER, "mkosi", self.root, self.work, *places, *more, "build"]
        return timed(command, self.work / "log", env)

    def times(self):
        self.build("-ff")  # fetches the packages
        cold = self.build("-ff")
        self.build("-i", "-ff")  # makes what an incremental build starts from
        self.step("two")
        return {"cold": cold, "step": self.build("-i", "-f"), "same": self.build("-i", "-f")}


class Ours:
    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        (work / "recipes/worker").mkdir(parents=True)
        self.env = dict(
            os.environ,
            PIAAS_CLOUD="local",
            PIAAS_RECIPES=str(work / "recipes"),
            PIAAS_STATE_DIR=str(work / "state"),
            PIAAS_CACHE_DIR=str(work / "cache"),
        )
        self.step("one")

    def step(self, word):
        text = RECIPE.format(packages=", ".join(PACKAGES), word=word)
        (self.work / "recipes/worker/recipe.yaml").write_text(text)

    def run(self, *args):
        return timed([self.binary, *args], self.work / "log", self.env)

    def times(self):
        self.run("lock", "worker")
        self.run("bake", "worker", "--locked")  # fetches the packages
        self.run("cloud", "reset", "--yes", "--base")
        shutil.rmtree(self.work / "cache/base", ignore_errors=True)
        cold = self.run("bake", "worker", "--offline")
        self.step("two")
        found = {"cold": cold, "step": self.run("bake", "worker", "--offline"), "same": self.run("bake", "worker", "--offline")}
        self.run("cloud", "reset", "--yes")
        return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--mkosi", required=True, help="a root with mkosi")
    options = parser.parse_args()
    wanted = {"cold": "0.5 of mkosi", "step": "0.15 of mkosi", "same": "1 s"}
    what = {"cold": "cold bake", "step": "one changed step", "same": "nothing changed"}
    with tempfile.TemporaryDirectory(prefix="piaas-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as place:
        work = pathlib.Path(place)
        for name in ("mkosi", "ours"):
            (work / name).mkdir()
        say("mkosi …")
        theirs = Mkosi(options.mkosi, work / "mkosi").times()
        say("piaas-bake …")
        ours = Ours(options.binary, work / "ours").times()
    print(f"{'':<18}{'piaas-bake':>12}{'mkosi':>9}{'ratio':>8}   wanted")
    for key, title in what.items():
        ratio = ours[key] / theirs[key]
        print(f"{title:<18}{ours[key]:>10.2f} s{theirs[key]:>7.1f} s{ratio:>8.2f}   at most {wanted[key]}")
    print("bench: " + json.dumps({"bake": {"piaas-bake": ours, "mkosi": theirs}}))


main()
