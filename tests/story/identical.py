"""Bakes the shipped recipes again and again, cold, with everything around them varied; each has one disk.

    identical.py --binary BIN --work DIR --cache DIR [--rounds N] [--here] [RECIPE …]

What a round varies: time zone, locale, umask, HOME, host name, working directory, number of cores, the file system that
the machines work on, where the recipes and the cache lie, cold and warm caches, another mirror, and the order in which
directories are read. The last round of each recipe is in a machine of its own (elsewhere.py): 400 days later, on another
kernel, without a network; not with --here. What a host does not have is said, and left out.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request

import elsewhere
import loopback
import standin

ROOT = pathlib.Path(__file__).resolve().parents[2]


def say(text):
    print(text, file=sys.stderr, flush=True)


def mirrored(path):
    """What Debian's mirror has under another address: /other/place/debian and /other/place/debian-security."""
    url = "http://deb.debian.org" + path.removeprefix("/other/place")
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def mounted(*args):
    done = subprocess.run(["mount", *map(str, args)], capture_output=True, text=True, check=False)
    return done.returncode == 0


class Places:
    """Directories on file systems of several kinds, below one directory."""

    def __init__(self, work):
        self.work = work
        self.mounts = []
        self.processes = []

    def make(self, kind):
        """A new directory on such a file system; None if this host has none."""
        place = self.work / f"{kind}-{len(self.mounts)}-{time.monotonic_ns()}"
        place.mkdir()
        if kind == "host":
            return place
        args = {"tmpfs": ["-t", "tmpfs", "-o", "size=12g", "tmpfs"]}.get(kind)
        if kind == "ext4":
            disk = place.with_suffix(".disk")
            subprocess.run(["truncate", "--size=16G", disk], check=True)
            subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^dir_index", disk], check=True)
            args = ["-o", "loop", disk]
        if kind == "overlay":
            parts = [place.with_suffix(suffix) for suffix in (".lower", ".upper", ".work")]
            for part in parts:
                part.mkdir()
            args = ["-t", "overlay", "-o", "lowerdir={},upperdir={},workdir={}".format(*parts), "overlay"]
        if not mounted(*args, place):
            return None
        self.mounts.append(place)
        return place

    def shuffled(self, directory):
        """The same directory, read in another order."""
        if not shutil.which("disorderfs"):
            return None
        place = self.work / f"shuffled-{time.monotonic_ns()}"
        place.mkdir()
        command = ["disorderfs", "-f", "--shuffle-dirents=yes", "--quiet", directory, place]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.ismount(place):
            if process.poll() is not None:
                return None
            time.sleep(0.01)
        self.mounts.append(place)
        self.processes.append(process)
        return place

    def close(self):
        for place in reversed(self.mounts):
            subprocess.run(["umount", "-l", place], check=False)
        # They end with their mounts.
        for process in self.processes:
            process.wait()


class Round:
    """One way of baking: what is varied, by name."""

    def __init__(self, number, work, places, mirror):
        pick = lambda *of: of[number % len(of)]
        self.number = number
        self.left_out = []
        # Bakes of several recipes are varied in the same way.
        self.home = work / f"home-{number}-{time.monotonic_ns()}"
        self.home.mkdir()
        state = pick("host", "tmpfs", "ext4")
        self.state = places.make(state)
        if self.state is None:
            self.left_out.append(state)
            self.state = places.make("host")
        kept = pick("host", "overlay")
        self.things = places.make(kept)
        if self.things is None:
            self.left_out.append(kept)
            self.things = places.make("host")
        self.cold = number % 4 == 3
        self.cores = pick("0,1", "0")
        self.umask = pick("022", "077", "002")
        self.name = pick("here", "another-host", "a.b.example")
        self.directory = pick("/", "/tmp", "/usr/share")
        self.mirror = pick(None, f"{mirror.url}/other/place/debian")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TZ": pick("UTC", "Pacific/Auckland", "America/St_Johns"),
            "LC_ALL": pick("C.UTF-8", "C", "tr_TR.UTF-8", "de_DE.UTF-8"),
            "PIAAS_CLOUD": "local",
            "PIAAS_STATE_DIR": str(self.state / "state"),
        }
        if self.mirror:
            self.env["PIAAS_MIRROR"] = self.mirror

    def prepare(self, recipes, cache, places):
        mine = self.things / "recipes"
        shutil.copytree(recipes, mine)
        self.env["PIAAS_RECIPES"] = str(mine)
        if self.number % 3 == 1:
            shuffled = places.shuffled(mine)
            if shuffled is None:
                self.left_out.append("disorderfs")
            else:
                self.env["PIAAS_RECIPES"] = str(shuffled)
        # A cold cache is filled from the archive; a warm one has the files of packages, and makes its base of them.
        self.env["PIAAS_CACHE_DIR"] = str(self.state / "cache")
        if not self.cold:
            shutil.copytree(cache / "debs", self.state / "cache/debs")

    def bake(self, binary, recipe):
        """The disk's SHA-256."""
        inner = f"umask {self.umask}; hostname {self.name}; cd {self.directory}; exec taskset -c {self.cores} \"$@\""
        base = ["unshare", "--uts", "sh", "-c", inner, "sh", str(binary)]

        def run(*args):
            done = subprocess.run([*base, *args], env=self.env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"round {self.number}: {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr[-4000:]}")
            return done.stdout

        baked = json.loads(run("bake", recipe, "--locked", "--no-cache", "--format", "json"))
        shown = json.loads(run("images", "show", baked["image_id"], "--format", "json"))
        return elsewhere.report_of(pathlib.Path(shown["disk"]))["disk_sha256"]

    def end(self, binary):
        subprocess.run([binary, "cloud", "reset", "--yes", "--base"], env=self.env, capture_output=True, check=False)
        for place in (self.state, self.things):
            shutil.rmtree(place, ignore_errors=True)

    def words(self):
        env = self.env
        parts = [
            f"state on {self.state.name.split('-')[0]}", f"recipes on {self.things.name.split('-')[0]}",
            "cold cache" if self.cold else "warm cache", f"cores {self.cores}", f"umask {self.umask}", env["TZ"], env["LC_ALL"],
            "another mirror" if self.mirror else "the mirror",
        ]
        if self.left_out:
            parts.append("not on this host: " + ", ".join(self.left_out))
        return ", ".join(parts)


def lock(binary, env, recipe):
    """Locks the recipe; None, or why a file that it downloads is not had from here."""
    done = subprocess.run([binary, "lock", recipe], env=env, capture_output=True, text=True, check=False)
    reason = done.stderr.strip().rpartition("\n")[2]
    if done.returncode and "cannot lock a download" not in reason:
        raise SystemExit(f"{recipe}: {done.stderr[-4000:]}")
    return reason if done.returncode else None


def lock_all(binary, env, recipes, wanted):
    """Locks them all; the stand-in that github-runner was given because GitHub's own archive is not reached, or None."""
    stand_in = None
    for recipe in wanted:
        reason = lock(binary, env, recipe)
        if reason and recipe == "github-runner":
            say(f"identical: {reason}\nidentical: {recipe} has a stand-in for that file: its contents are not GitHub's")
            stand_in = standin.stand_in(recipes / recipe / "recipe.yaml")
            reason = lock(binary, env, recipe)
        if reason:
            raise SystemExit(f"{recipe}: {reason}")
    return stand_in


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=20, help="bakes in all")
    parser.add_argument("--here", action="store_true", help="none of them in a machine of its own")
    parser.add_argument("recipe", nargs="*", help="without one, all that are shipped")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    recipes = options.work / "recipes"
    shutil.copytree(ROOT / "recipes", recipes)
    places, mirror = Places(options.work), loopback.Loopback(mirrored)
    env = dict(
        os.environ, PIAAS_CLOUD="local", PIAAS_RECIPES=str(recipes), PIAAS_CACHE_DIR=str(options.cache),
        PIAAS_STATE_DIR=str(options.work / "first"),
    )
    shipped = sorted((path.parent.name for path in recipes.glob("*/recipe.yaml")), reverse=True)
    options.recipe = options.recipe or shipped
    stand_in = lock_all(options.binary, env, recipes, options.recipe)
    disks = {recipe: set() for recipe in options.recipe}
    try:
        for recipe in options.recipe:
            # The host has the files of all packages then.
            subprocess.run([options.binary, "bake", recipe, "--locked"], env=env, stdout=subprocess.DEVNULL, check=True)
        subprocess.run([options.binary, "cloud", "reset", "--yes"], env=env, check=True)
        here = options.rounds if options.here else options.rounds - len(options.recipe)
        for number in range(here):
            recipe = options.recipe[number % len(options.recipe)]
            # Each recipe goes through all of it: what is picked moves on by rounds of all recipes.
            one = Round(number // len(options.recipe), options.work, places, mirror)
            one.prepare(recipes, options.cache, places)
            sha256 = one.bake(options.binary, recipe)
            disks[recipe].add(sha256)
            say(f"identical: {number + 1} of {options.rounds}: {recipe} {sha256[:16]} ({one.words()})")
            one.end(options.binary)
        if not options.here:
            say("identical: the last ones in a machine of its own")
            work = options.work / "elsewhere"
            found, when = elsewhere.bake(options.binary, env, work, recipes, options.cache, options.recipe)
            for number, recipe in enumerate(options.recipe, here + 1):
                disks[recipe].add(found[recipe])
                say(f"identical: {number} of {options.rounds}: {recipe} {found[recipe][:16]} (in a machine, where {when})")
            subprocess.run([options.binary, "cloud", "reset", "--yes"], env=env, capture_output=True, check=False)
    finally:
        places.close()
        mirror.shutdown()
        if stand_in:
            stand_in.shutdown()
    for recipe, found in disks.items():
        of = " with a stand-in for its download" if stand_in and recipe == "github-runner" else ""
        print(f"identical: {recipe}{of}: {len(found)} disk{'s' if len(found) > 1 else ''}: {', '.join(sorted(found))}")
    assert all(len(found) == 1 for found in disks.values()), "the same recipe gave more than one disk"


main()
