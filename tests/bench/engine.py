"""The engine's own time in a bake and its API calls, beside Packer's, with the same waits of the cloud.

Packer 1.6 (of Debian) bakes on moto's EC2, behind a proxy that makes machines and images take their time. It has no
communicator: it launches, stops, makes the image and cleans up, and provisions nothing. Ours is a whole bake: it also
sends its bundle, provisions, validates, seals, boots the image once more and tests it.
"""

import argparse
import collections
import http.client
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Waits:
    def __init__(self, boot, stop, snapshot):
        self.boot, self.stop, self.snapshot = boot, stop, snapshot
        self.at = {}
        self.calls = collections.Counter()

    def begun(self, what, answer, pattern):
        for found in re.findall(pattern, answer):
            self.at.setdefault((what, found), time.monotonic())

    def pending(self, what, found, takes):
        since = self.at.get((what, found))
        return since is not None and time.monotonic() - since < takes

    def slowed(self, action, answer):
        """The answer as a cloud would give it that takes its time."""
        if action == "RunInstances":
            self.begun("boot", answer, r"<instanceId>(i-[0-9a-f]+)<")
        elif action == "StopInstances":
            self.begun("stop", answer, r"<instanceId>(i-[0-9a-f]+)<")
        elif action == "CreateImage":
            self.begun("image", answer, r"<imageId>(ami-[0-9a-f]+)<")
        elif action == "DescribeInstances":
            for instance in re.findall(r"<instanceId>(i-[0-9a-f]+)<", answer):
                if self.pending("boot", instance, self.boot):
                    answer = answer.replace("<code>16</code>", "<code>0</code>").replace("<name>running</name>", "<name>pending</name>")
                if self.pending("stop", instance, self.stop):
                    answer = answer.replace("<code>80</code>", "<code>64</code>").replace("<name>stopped</name>", "<name>stopping</name>")
        elif action == "DescribeImages":
            for image in re.findall(r"<imageId>(ami-[0-9a-f]+)<", answer):
                if self.pending("image", image, self.snapshot):
                    answer = answer.replace("<imageState>available<", "<imageState>pending<")
        return answer


def proxy(waits, port):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            action = urllib.parse.parse_qs(body.decode()).get("Action", ["?"])[0]
            waits.calls[action] += 1
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            upstream.request("POST", self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            text = answer.read().decode()
            data = waits.slowed(action, text).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "text/xml"))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def packer(options, waits):
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    # What it knows belongs to the process, and so to the run before as well.
    reset = http.client.HTTPConnection("127.0.0.1", port)
    reset.request("POST", "/moto-api/reset")
    reset.getresponse().read()
    front = proxy(waits, port)
    endpoint = f"http://127.0.0.1:{front.server_port}"
    import boto3

    ec2 = boto3.client("ec2", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                       aws_access_key_id="test", aws_secret_access_key="test")
    source = next(one for one in ec2.describe_images()["Images"] if one.get("RootDeviceType") == "ebs")["ImageId"]
    template = {"builders": [{
        "type": "amazon-ebs", "region": "us-east-1", "access_key": "test", "secret_key": "test",
        "custom_endpoint_ec2": endpoint, "skip_region_validation": True, "skip_metadata_api_check": True,
        "source_ami": source, "instance_type": "t3.medium", "ami_name": "bench", "communicator": "none",
    }]}
    with tempfile.TemporaryDirectory() as work:
        file = pathlib.Path(work) / "bench.json"
        file.write_text(json.dumps(template))
        environment = {
            "PATH": os.environ["PATH"], "HOME": work, "CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1",
            # Packer asks every two seconds if nobody says otherwise; its most eager is one.
            "AWS_POLL_DELAY_SECONDS": "1",
        }
        started = time.monotonic()
        done = subprocess.run(["packer", "build", str(file)], env=environment, capture_output=True, text=True, timeout=600)
        wall = time.monotonic() - started
    if done.returncode:
        sys.exit(f"packer: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    left = [one for page in ec2.describe_instances()["Reservations"] for one in page["Instances"] if one["State"]["Name"] != "terminated"]
    if left:
        sys.exit(f"packer left {left}")
    front.shutdown()
    moto.stop()
    return {"wall": wall, "waited": options.boot + options.stop + options.snapshot, "scripts": 0, "calls": dict(waits.calls)}


def ours(options):
    waits = f"{options.boot} {options.stop} {options.snapshot}"
    done = subprocess.run(
        ["cargo", "test", "--locked", "--quiet", "--test", "it", "--", "--nocapture", "--exact",
         "bake_flow::bench::a_bake_with_the_waits_of_a_cloud"],
        cwd=ROOT, env=dict(os.environ, PIAAS_BENCH_WAITS=waits), capture_output=True, text=True, timeout=1800,
    )
    found = re.search(r"^bench: (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return json.loads(found[1])


def own(run):
    """Time that is neither the cloud's nor the recipe's."""
    return run["wall"] - run["waited"] - run["scripts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boot", type=float, default=10)
    parser.add_argument("--stop", type=float, default=5)
    parser.add_argument("--snapshot", type=float, default=20)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = {"piaas-bake": [], "Packer": []}
    for _ in range(options.runs):
        rows["piaas-bake"].append(ours(options))
        rows["Packer"].append(packer(options, Waits(options.boot, options.stop, options.snapshot)))
    best = {name: min(runs, key=own) for name, runs in rows.items()}
    print(f"waits: boot {options.boot:.0f} s, stop {options.stop:.0f} s, snapshot {options.snapshot:.0f} s; best of {options.runs}")
    print(f"{'':12} {'wall':>8} {'waits':>8} {'scripts':>8} {'own time':>9} {'calls':>6}")
    for name, run in best.items():
        print(f"{name:12} {run['wall']:7.1f}s {run['waited']:7.1f}s {run['scripts']:7.1f}s {own(run):8.1f}s {sum(run['calls'].values()):6}")
    print(f"own time, ours to Packer's: {own(best['piaas-bake']) / own(best['Packer']):.2f}")
    print("piaas-bake: " + ", ".join(f"{phase} {milliseconds / 1000:.1f}s" for phase, milliseconds in best["piaas-bake"]["phases"]))
    for name, run in best.items():
        print(f"{name}: " + ", ".join(f"{operation} {count}" for operation, count in sorted(run["calls"].items())))


if __name__ == "__main__":
    main()
