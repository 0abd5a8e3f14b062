"""What the tests of Auto Scaling groups share: a group, and waiting for it."""

import time
import uuid

from wire import Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"


class GroupCase(Case):
    def setUp(self):
        super().setUp()
        self.scaling = client("autoscaling")
        self.ec2 = client("ec2")
        self.name = f"group-{uuid.uuid4().hex[:12]}"
        self.named = {"AutoScalingGroupName": self.name}
        base = client("ssm").get_parameter(Name=BASE)["Parameter"]["Value"]
        made = self.ec2.create_launch_template(
            LaunchTemplateName=self.name,
            LaunchTemplateData={"ImageId": base, "InstanceType": "t3.medium"},
        )["LaunchTemplate"]
        self.template = {"LaunchTemplateId": made["LaunchTemplateId"], "Version": "1"}
        self.zone = self.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]

    def create(self, **more):
        asked = {
            **self.named,
            "MinSize": 0,
            "MaxSize": 4,
            "DesiredCapacity": 2,
            "LaunchTemplate": self.template,
            "AvailabilityZones": [self.zone],
            **more,
        }
        self.scaling.create_auto_scaling_group(**asked)
        self.addCleanup(self.gone)
        return asked

    def gone(self):
        if self.groups():
            self.scaling.delete_auto_scaling_group(**self.named, ForceDelete=True)
        self.until(lambda: not self.groups())

    def groups(self):
        return self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"]

    def group(self):
        [group] = self.groups()
        return group

    def until(self, happens):
        for _ in range(200):
            if happens():
                return
            time.sleep(0.05)
        self.fail(f"never happened; the group is {self.groups()}")

    def states(self):
        return sorted(instance["LifecycleState"] for instance in self.group()["Instances"])

    def serve(self, count):
        self.until(lambda: self.states() == ["InService"] * count)
        return [instance["InstanceId"] for instance in self.group()["Instances"]]
