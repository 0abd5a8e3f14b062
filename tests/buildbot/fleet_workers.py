"""The workers of an Auto Scaling group, for a Buildbot master.

Imported once, while the configuration is read again and again: what is known is kept here.
"""

import boto3
from buildbot.util.service import BuildbotService
from twisted.internet import defer, task, threads
from twisted.python import log

# Ids of the instances that the configuration was last read with.
current = frozenset()


def instances(ec2, group):
    """Ids of the instances of the group, and of the canary of a roll, that are not on their way out."""
    found = set()
    for tag in ("aws:autoscaling:groupName", "piaas-bake:canary"):
        filters = [
            {"Name": f"tag:{tag}", "Values": [group]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        for page in ec2.get_paginator("describe_instances").paginate(Filters=filters):
            found.update(one["InstanceId"] for r in page["Reservations"] for one in r["Instances"])
    return frozenset(found)


class FleetWorkers(BuildbotService):
    """Has the configuration read anew whenever the group has other instances."""

    name = "fleet-workers"

    def checkConfig(self, group):
        pass

    def reconfigService(self, group):
        self.group = group

    def startService(self):
        self.ec2 = boto3.client("ec2")
        self.loop = task.LoopingCall(self.look)
        self.loop.start(1, now=True).addErrback(log.err)
        return super().startService()

    @defer.inlineCallbacks
    def stopService(self):
        if self.loop.running:
            self.loop.stop()
        yield super().stopService()

    @defer.inlineCallbacks
    def look(self):
        global current
        try:
            there = yield threads.deferToThread(instances, self.ec2, self.group)
        except Exception as error:  # the network's and the service's are many; the next look asks again
            log.msg(f"cannot ask EC2 for workers: {error}")
            return
        if there != current and self.running:
            current = there
            yield self.master.reconfig()
