"""An archive in the place of GitHub's, where github.com is not reached: the recipe github-runner can be baked with it.

What the recipe does with it is the recipe's own: it is downloaded, checked, kept, unpacked and asked for its version. What is
in it is not GitHub's, and whoever uses it has to say so.
"""

import gzip
import hashlib
import io
import random
import re
import tarfile

import loopback

# It answers for the one program that the recipe runs.
LISTENER = """\
#!/bin/sh
[ "$1" = --version ] && echo {version}
"""


def archive(version):
    """A tar.gz in the shape of actions-runner-linux-x64: owned by who packed it, with links, odd times and modes, and files
    that cannot be compressed."""
    packed = io.BytesIO()
    noise = random.Random(version)
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w|") as tar:

        def put(name, data=b"", **fields):
            member = tarfile.TarInfo(f"./{name}")
            member.uid, member.gid, member.uname, member.gname = 1001, 127, "runner", "docker"
            member.size, member.mode, member.mtime = len(data), 0o644, 1760000000 + len(name)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(data))

        put("", type=tarfile.DIRTYPE, mode=0o755)
        put("run.sh", b"#!/bin/sh\nexec bin/Runner.Listener run\n", mode=0o755)
        put("bin", type=tarfile.DIRTYPE, mode=0o755)
        put("bin/Runner.Listener", LISTENER.format(version=version).encode(), mode=0o755)
        for number in range(200):
            put(f"bin/System.Part{number}.dll", noise.randbytes(noise.randrange(300_000)), mode=0o744)
        put("externals", type=tarfile.DIRTYPE, mode=0o755)
        for node in ("node20", "node24"):
            put(f"externals/{node}", type=tarfile.DIRTYPE, mode=0o775)
            put(f"externals/{node}/node", noise.randbytes(20_000_000), mode=0o755)
            put(f"externals/{node}/npm", type=tarfile.SYMTYPE, linkname="../lib/npm-cli.js", mode=0o777)
            put(f"externals/{node}/same", type=tarfile.LNKTYPE, linkname=f"./externals/{node}/node")
    return packed.getvalue()


def stand_in(recipe):
    """A server with the archive; `recipe`, the recipe.yaml of a copy of github-runner, is changed to have it."""
    text = recipe.read_text()
    version = re.search(r"runner_version:.*?default: (\S+)", text, re.S)[1]
    body = archive(version)
    server = loopback.Loopback(lambda _: body)
    for pattern, new in ((r"https://github\.com/", f"{server.url}/"), (r"\b[0-9a-f]{64}\b", hashlib.sha256(body).hexdigest())):
        text, changed = re.subn(pattern, new, text)
        assert changed == 1, f"{recipe} has another form than this expects: {changed} times {pattern}"
    recipe.write_text(text)
    return server
