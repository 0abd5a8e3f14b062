"""What the demo and the soak share: a local cloud with its clients, a Buildbot master, jobs with a ledger of their own.

Everything talks to the product from outside: its command line, the AWS API by boto3, Buildbot's REST API.
"""

import contextlib
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Where machines of the local cloud reach ports of this host (`piaas-bake cloud expose`).
HOST = "169.254.42.1"
# Seconds that a Buildbot master may take to answer while the machines of two clouds start beside it.
ANSWER = 60


def until(what, happens, patience=120, every=0.2):
    """Asks until the answer is true; gives it. Fails when patience (seconds) runs out."""
    deadline = time.monotonic() + patience
    while True:
        answer = happens()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience} s for {what}")
        time.sleep(every)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Product:
    """The binary under test, on one state directory."""

    def __init__(self, binary, state=None, recipes=None, log=None):
        self.binary = str(binary)
        self.env = dict(os.environ, PIAAS_CLOUD="local")
        if state is not None:
            self.env["PIAAS_STATE_DIR"] = str(state)
        if recipes is not None:
            self.env["PIAAS_RECIPES"] = str(recipes)
        self.log = log

    def start(self, *args, **more):
        options = {"env": self.env, "cwd": ROOT, "stdin": subprocess.DEVNULL, "text": True, **more}
        # A group of its own: a signal meant for the harness is not the product's.
        return subprocess.Popen([self.binary, *map(str, args)], start_new_session=True, **options)

    def run(self, *args, codes=(0,)):
        """Runs a verb to its end; gives its JSON document, if it has one."""
        process = self.start(*args, "--format", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate()
        if process.returncode not in codes:
            raise RuntimeError(f"piaas-bake {' '.join(map(str, args))}: exit code {process.returncode}\n{out[-4000:]}\n{err[-4000:]}")
        return document(out), process.returncode


def document(text):
    """The JSON document that a verb has written, if it has."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return None


class Cloud:
    """`piaas-bake cloud serve`, and boto3's clients of it."""

    def __init__(self, product):
        self.product = product
        self.server = product.start(
            "cloud", "serve", "--listen", "127.0.0.1:0", "--format", "ndjson",
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        line = self.server.stdout.readline()
        if not line:
            raise RuntimeError(f"cloud serve ended with exit code {self.server.wait()}")
        serving = json.loads(line).get("result")
        if serving is None:
            raise RuntimeError(f"cloud serve did not begin: {line.strip()}")
        self.endpoint = serving["endpoint"]
        self.region = serving["region"]
        self.session = boto3.Session(
            aws_access_key_id=serving["access_key_id"],
            aws_secret_access_key=serving["secret_access_key"],
            region_name=serving["region"],
        )
        self.ec2, self.scaling, self.ssm = map(self.client, ("ec2", "autoscaling", "ssm"))

    def client(self, service):
        # Eight threads may ask at once; the standard mode repeats what was throttled or lost.
        config = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
        return self.session.client(service, endpoint_url=self.endpoint, config=config)

    def expose(self, *ports):
        for port in ports:
            self.product.run("cloud", "expose", port)

    def hide(self, *ports):
        for port in ports:
            self.product.run("cloud", "expose", port, "--remove")

    def machines(self):
        """Ids of all machines that are not terminated."""
        pages = self.ec2.get_paginator("describe_instances").paginate()
        return sorted(
            one["InstanceId"]
            for page in pages
            for reservation in page["Reservations"]
            for one in reservation["Instances"]
            if one["State"]["Name"] != "terminated"
        )

    def close(self):
        self.server.terminate()
        self.server.wait(30)


class Group:
    """A launch template and its Auto Scaling group, made as this product wants them."""

    def __init__(self, cloud, name, image, least, most, desired, user_data="", profile="ci-worker"):
        self.cloud, self.name = cloud, name
        import base64

        # What a run that was killed has left of a group of this name.
        self.remove()
        made = cloud.ec2.create_launch_template(
            LaunchTemplateName=name,
            VersionDescription="made by hand",
            LaunchTemplateData={
                "ImageId": image,
                "InstanceType": "t3.medium",
                # Its role: the worker agent protects its own instance.
                "IamInstanceProfile": {"Name": profile},
                "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
                "UserData": base64.b64encode(user_data.encode()).decode(),
            },
        )["LaunchTemplate"]
        self.template = made["LaunchTemplateId"]
        zone = cloud.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
        cloud.scaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            MinSize=least,
            MaxSize=most,
            DesiredCapacity=desired,
            AvailabilityZones=[zone],
            # A number, never $Latest: so the group can be rolled back.
            LaunchTemplate={"LaunchTemplateId": self.template, "Version": "1"},
            NewInstancesProtectedFromScaleIn=True,
            DefaultInstanceWarmup=0,
        )
        cloud.scaling.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["AZRebalance"])

    def describe(self):
        groups = self.cloud.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]
        return groups[0] if groups else None

    def image(self):
        """What the group launches: the image of its version of the launch template."""
        version = self.describe()["LaunchTemplate"]["Version"]
        asked = self.cloud.ec2.describe_launch_template_versions(LaunchTemplateId=self.template, Versions=[version])
        return asked["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"]

    def members(self):
        return {one["InstanceId"]: one for one in (self.describe() or {"Instances": []})["Instances"]}

    def in_service(self):
        return sorted(key for key, one in self.members().items() if one["LifecycleState"] == "InService")

    def remove(self):
        if self.describe():
            self.cloud.scaling.delete_auto_scaling_group(AutoScalingGroupName=self.name, ForceDelete=True)
            until("the group to be gone", lambda: not self.describe())
        templates = self.cloud.ec2.describe_launch_templates(
            Filters=[{"Name": "launch-template-name", "Values": [self.name]}]
        )["LaunchTemplates"]
        for one in templates:
            self.cloud.ec2.delete_launch_template(LaunchTemplateId=one["LaunchTemplateId"])
        # What is written down of its rolls and of its fleet is about nothing any more.
        self.cloud.ssm.delete_parameters(Names=[f"/piaas-bake/{what}/{self.name}" for what in ("rolls", "fleets")])


class Ledger:
    """What jobs say of themselves: begun, still running, ended. Kept apart from Buildbot, which is a witness too."""

    def __init__(self):
        self.lock = threading.Lock()
        # Runs of jobs: (job, instance, run) -> {"begun", "beat", "ended"} in seconds of this host's clock.
        self.runs = {}
        ledger = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                ledger.note(urllib.parse.urlsplit(self.path))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def note(self, url):
        asked = dict(urllib.parse.parse_qsl(url.query))
        key = (int(asked["job"]), asked["instance"], asked["run"])
        now = time.time()
        with self.lock:
            run = self.runs.setdefault(key, {"begun": now, "beat": now, "ended": None})
            run["beat"] = now
            if url.path == "/ended":
                run["ended"] = now

    def snapshot(self):
        with self.lock:
            return {key: dict(run) for key, run in self.runs.items()}

    def command(self, job, seconds):
        """The shell text of a job: it runs this long and says so all the while."""
        say = f"curl --silent --max-time 5 --output /dev/null \"http://{HOST}:{self.port}"
        return (
            "imds=http://169.254.169.254/latest\n"
            "t=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $imds/api/token)\n"
            'id=$(curl -s -H "X-aws-ec2-metadata-token: $t" $imds/meta-data/instance-id)\n'
            f"run=$$-$(date +%s%N); q=\"job={job}&instance=$id&run=$run\"\n"
            f"end=$(($(date +%s) + {int(seconds)}))\n"
            f"{say}/begun?$q\"\n"
            f"while [ $(date +%s) -lt $end ]; do sleep 0.4; {say}/beat?$q\"; done\n"
            f"{say}/ended?$q\"\n"
        )

    def close(self):
        self.server.shutdown()


class Stop(BaseException):
    """Somebody asked the harness to end."""


def end_on_signals():
    """SIGTERM and SIGHUP end the harness as Ctrl-C does: what it started is cleaned up."""

    def stop(number, _frame):
        raise KeyboardInterrupt(f"signal {number}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Master:
    """A Buildbot master on loopback, from tests/buildbot, with its state in `work`."""

    def __init__(self, venv, work):
        self.buildbot = pathlib.Path(venv).resolve() / "bin" / "buildbot"
        self.work = pathlib.Path(work)
        self.worker_port, self.web_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.password = os.urandom(16).hex()
        self.process = None
        self.env = dict(
            os.environ,
            CI_WORKER_PORT=str(self.worker_port),
            CI_WEB_PORT=str(self.web_port),
            CI_PASSWORD=self.password,
        )
        self.work.mkdir(parents=True)
        (self.work / "master.cfg").write_bytes((ROOT / "tests" / "buildbot" / "master.cfg").read_bytes())
        self.command("create-master", "--log-count", "0", "--log-size", "0", ".")
        (self.work / "master.cfg.sample").unlink(missing_ok=True)

    def worker_settings(self, cloud):
        """The user data of a worker of recipes/ci-worker: which master, and the password."""
        cloud.expose(self.worker_port)
        return f"ci-master-host={HOST}\nci-master-port={self.worker_port}\nci-password={self.password}\n"

    def command(self, *args):
        done = subprocess.run(
            [self.buildbot, *args], cwd=self.work, env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"buildbot {args[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}")

    def start(self):
        self.process = subprocess.Popen(
            [self.buildbot, "start", "--nodaemon", "."],
            cwd=self.work, env=self.env, stdin=subprocess.DEVNULL,
            stdout=open(self.work / "console.log", "a"), stderr=subprocess.STDOUT, start_new_session=True,
        )
        until("Buildbot to answer", self.answers, 60)

    def answers(self):
        if self.process.poll() is not None:
            log = (self.work / "console.log").read_text()[-3000:]
            raise RuntimeError(f"the Buildbot master ended with exit code {self.process.returncode}:\n{log}")
        with contextlib.suppress(OSError, ValueError):
            return self.get("builders")["builders"]

    def get(self, path, **query):
        url = f"{self.url}/api/v2/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query, doseq=True)
        with urllib.request.urlopen(url, timeout=ANSWER) as answer:
            return json.load(answer)

    def force(self, job, command):
        """Asks for a job. A lost answer may ask for it twice; a job that runs twice is one that runs."""
        body = {"jsonrpc": "2.0", "id": job, "method": "force",
                "params": {"builderid": 1, "job": job, "command": command, "reason": f"job {job}", "owner": "harness"}}
        request = urllib.request.Request(
            f"{self.url}/api/v2/forceschedulers/force",
            json.dumps(body).encode(), {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER) as answer:
            answer = json.load(answer)
        if "error" in answer:
            raise RuntimeError(f"Buildbot refuses job {job}: {answer['error']}")

    def queue(self):
        """How many jobs wait for a worker."""
        asked = self.get("buildrequests", complete="false", claimed="false")
        return len(asked["buildrequests"])

    def builds(self):
        """All builds: number, job, worker, result (None: it runs), times."""
        found = self.get("builds", property=["job", "workername"])["builds"]
        return [
            {
                "number": one["number"],
                "job": (one["properties"].get("job") or [None])[0],
                "worker": (one["properties"].get("workername") or [None])[0],
                "result": one["results"] if one["complete"] else None,
                "began": one["started_at"],
                "ended": one["complete_at"],
            }
            for one in found
        ]

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                # As a service manager does with one that does not end.
                self.process.kill()
                self.process.wait()
