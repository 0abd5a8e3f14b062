"""Bakes of one machine beside mkosi: cold, after one changed step, and with nothing changed.

The same packages from the same archive, warm package caches on both sides, one after the other on this host. mkosi and
the systemd that it wants come from Debian's backports, in a root of their own. The debug archive, which mkosi's module
for Debian asks for too, is left out on both sides.

mkosi writes a disk. Ours writes a disk, boots it and tests it, and its cold bake also makes the base image.

A cold bake begins in directories that nothing was in, and what was written before a bake is on the disk when it begins.

Each side works where TMPDIR is, or with `--journal` on a new ext4 of its own that has a journal. Without one, ext4 does
not use an inode again for minutes after its file was removed, and looks at each of these first (kernel,
fs/ext4/ialloc.c, `recently_deleted`): there, who removes a whole system takes much longer to make the next one.
"""

import argparse
import contextlib
import json
import os
import pathlib
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

[Content]
Bootable=yes
Bootloader=systemd-boot
BuildSources=
WithDocs=yes
PostInstallationScripts=step
Packages={packages}
"""
PARTS = {"output-dir": "out", "cache-dir": "cache", "workspace-dir": "space"}
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
    """Seconds of a command that must succeed; what was written before it is on the disk."""
    os.sync()
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
        (work / "packages").mkdir()
        self.renew("first")
        self.step("one")

    def renew(self, name):
        """New directories for all but the packages."""
        self.place = f"/bench/{name}"
        for part in ("out", "cache", "space"):
            (self.work / name / part).mkdir(parents=True)

    def step(self, word):
        (self.work / "step").write_text(f'#!/bin/sh\necho {word} >"$BUILDROOT/etc/step"\n')
        (self.work / "step").chmod(0o755)

    def build(self, *more):
        env = dict(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
        parts = [f"--{part}={self.place}/{name}" for part, name in PARTS.items()]
        places = [*parts, "--package-cache-dir=/bench/packages"]
        command = ["unshare", "-m", "sh", "-c", ENTER, "mkosi", self.root, self.work, *places, *more, "build"]
        return timed(command, self.work / "log", env)

    def times(self):
        self.build("-ff")  # fetches the packages
        self.renew("second")
        cold = self.build("-ff")
        self.build("-i", "-ff")  # makes what an incremental build starts from
        self.step("two")
        return {"cold": cold, "step": self.build("-i", "-f"), "same": self.build("-i", "-f")}


class Ours:
    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        (work / "recipes/worker").mkdir(parents=True)
        self.renew("first")
        self.step("one")

    def renew(self, name):
        """New directories; the files of packages come along."""
        before, self.place = getattr(self, "place", None), self.work / name
        (self.place / "cache").mkdir(parents=True)
        if before:
            (before / "cache/debs").rename(self.place / "cache/debs")
        self.env = dict(
            os.environ,
            PIAAS_CLOUD="local",
            PIAAS_RECIPES=str(self.work / "recipes"),
            PIAAS_STATE_DIR=str(self.place / "state"),
            PIAAS_CACHE_DIR=str(self.place / "cache"),
        )

    def step(self, word):
        text = RECIPE.format(packages=", ".join(PACKAGES), word=word)
        (self.work / "recipes/worker/recipe.yaml").write_text(text)

    def run(self, *args):
        return timed([self.binary, *args], self.work / "log", self.env)

    def times(self):
        self.run("lock", "worker")
        self.run("bake", "worker", "--locked")  # fetches the packages
        first = self.env
        self.renew("second")
        cold = self.run("bake", "worker", "--offline")
        self.step("two")
        found = {"cold": cold, "step": self.run("bake", "worker", "--offline"), "same": self.run("bake", "worker", "--offline")}
        for self.env in (first, self.env):
            self.run("cloud", "reset", "--yes")
        return found


@contextlib.contextmanager
def space(place, journal):
    """A new directory; with `journal` a new ext4 is mounted there."""
    place.mkdir()
    if not journal:
        yield place
        return
    image = place.with_suffix(".ext4")
    with open(image, "wb") as file:
        file.truncate(60 << 30)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image], check=True)
    # Not by way of the host's page cache: everything would be in memory twice.
    loop = ["losetup", "--find", "--show", "--direct-io=on", image]
    device = subprocess.run(loop, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", device, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--mkosi", required=True, help="a root with mkosi")
    parser.add_argument("--journal", action="store_true", help="work on new ext4 file systems with journals")
    options = parser.parse_args()
    wanted = {"cold": "0.5 of mkosi", "step": "0.15 of mkosi", "same": "1 s"}
    what = {"cold": "cold bake", "step": "one changed step", "same": "nothing changed"}
    with tempfile.TemporaryDirectory(prefix="piaas-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as place:
        work = pathlib.Path(place)
        say("mkosi …")
        with space(work / "mkosi", options.journal) as here:
            theirs = Mkosi(options.mkosi, here).times()
        say("piaas-bake …")
        with space(work / "ours", options.journal) as here:
            ours = Ours(options.binary, here).times()
    print(f"{'':<18}{'piaas-bake':>12}{'mkosi':>9}{'ratio':>8}   wanted")
    for key, title in what.items():
        ratio = ours[key] / theirs[key]
        print(f"{title:<18}{ours[key]:>10.2f} s{theirs[key]:>7.1f} s{ratio:>8.2f}   at most {wanted[key]}")
    print("bench: " + json.dumps({"bake": {"piaas-bake": ours, "mkosi": theirs}}))


main()
