"""Why instances are in their state (EC2 API Reference, StateReason), and what a client token stands for."""

import unittest

from wire import PATIENT, Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"
USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
WHEN = r"^User initiated \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\)$"


class Reasons(Case):
    def setUp(self):
        super().setUp()
        self.ec2 = client("ec2")
        self.base = client("ssm").get_parameter(Name=BASE)["Parameter"]["Value"]

    def look(self, instance):
        found = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        reason = found.get("StateReason", {})
        return found["State"]["Name"], (reason.get("Code"), reason.get("Message")), found["StateTransitionReason"]

    def test_an_instance_says_who_stopped_and_terminated_it(self):
        made = self.ec2.run_instances(ImageId=self.base, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]
        self.assertEqual(made["StateReason"], {"Code": "pending", "Message": "pending"})
        instance = made["InstanceId"]
        self.ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
        self.assertEqual(self.look(instance), ("running", (None, None), ""))

        self.ec2.stop_instances(InstanceIds=[instance])
        self.ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
        state, reason, transition = self.look(instance)
        self.assertEqual((state, reason), ("stopped", USER))
        self.assertRegex(transition, WHEN)

        self.ec2.start_instances(InstanceIds=[instance])
        self.ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
        self.assertEqual(self.look(instance), ("running", (None, None), ""))

        self.ec2.terminate_instances(InstanceIds=[instance])
        self.ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
        state, reason, transition = self.look(instance)
        self.assertEqual((state, reason), ("terminated", USER))
        self.assertRegex(transition, WHEN)

    def test_a_group_ends_its_instances_as_a_user_does(self):
        scaling = client("autoscaling")
        data = {"ImageId": self.base, "InstanceType": "t3.micro"}
        self.ec2.create_launch_template(LaunchTemplateName="reasons", LaunchTemplateData=data)
        scaling.create_auto_scaling_group(
            AutoScalingGroupName="reasons", MinSize=0, MaxSize=1, DesiredCapacity=1,
            AvailabilityZones=[f"{self.ec2.meta.region_name}a"],
            LaunchTemplate={"LaunchTemplateName": "reasons", "Version": "1"},
        )
        [group] = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
        instance = group["Instances"][0]["InstanceId"]
        scaling.delete_auto_scaling_group(AutoScalingGroupName="reasons", ForceDelete=True)
        self.ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
        state, reason, transition = self.look(instance)
        self.assertEqual((state, reason), ("terminated", USER))
        self.assertRegex(transition, WHEN)

    def test_a_token_makes_one_template_and_one_version(self):
        data = {"ImageId": self.base, "InstanceType": "t3.micro"}
        template = {"LaunchTemplateName": "tokens", "LaunchTemplateData": data, "ClientToken": "template-1"}
        first = self.ec2.create_launch_template(**template)["LaunchTemplate"]
        self.assertEqual(self.ec2.create_launch_template(**template)["LaunchTemplate"], first)
        other = {**template, "LaunchTemplateName": "others"}
        self.refused("IdempotentParameterMismatch", self.ec2.create_launch_template, **other)

        larger = {**data, "InstanceType": "t3.large"}
        version = {"LaunchTemplateName": "tokens", "LaunchTemplateData": larger, "ClientToken": "version-1"}
        second = self.ec2.create_launch_template_version(**version)["LaunchTemplateVersion"]
        self.assertEqual(second["VersionNumber"], 2)
        self.assertEqual(self.ec2.create_launch_template_version(**version)["LaunchTemplateVersion"], second)
        other = {**version, "LaunchTemplateData": data}
        self.refused("IdempotentParameterMismatch", self.ec2.create_launch_template_version, **other)
        [known] = self.ec2.describe_launch_templates(LaunchTemplateNames=["tokens"])["LaunchTemplates"]
        self.assertEqual(known["LatestVersionNumber"], 2)


if __name__ == "__main__":
    unittest.main()
