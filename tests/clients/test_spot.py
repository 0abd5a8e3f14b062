"""Spot Instances, as boto3 asks for them."""

import json
import unittest

from wire import Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"
SPOT = {"MarketType": "spot"}


class Spot(Case):
    def setUp(self):
        super().setUp()
        self.ec2 = client("ec2")
        self.base = client("ssm").get_parameter(Name=BASE)["Parameter"]["Value"]

    def launch(self, **more):
        made = self.ec2.run_instances(
            **{"ImageId": self.base, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, **more}
        )["Instances"][0]
        self.addCleanup(self.ec2.terminate_instances, InstanceIds=[made["InstanceId"]])
        return made

    def look(self, instance):
        found = self.ec2.describe_instances(InstanceIds=[instance])
        return found["Reservations"][0]["Instances"][0]

    def request(self, instance):
        [found] = self.ec2.describe_spot_instance_requests(
            SpotInstanceRequestIds=[instance["SpotInstanceRequestId"]]
        )["SpotInstanceRequests"]
        return found

    def test_a_request_is_fulfilled_and_closed_with_its_instance(self):
        plain = self.launch()
        self.assertNotIn("InstanceLifecycle", plain)
        options = {**SPOT, "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}}
        tags = [{"Key": "team", "Value": "ci"}]
        spot = self.launch(
            InstanceMarketOptions=options,
            TagSpecifications=[{"ResourceType": "spot-instances-request", "Tags": tags}],
        )
        self.assertEqual(spot["InstanceLifecycle"], "spot")
        only = self.ec2.describe_instances(Filters=[{"Name": "instance-lifecycle", "Values": ["spot"]}])
        ids = [one["InstanceId"] for each in only["Reservations"] for one in each["Instances"]]
        self.assertIn(spot["InstanceId"], ids)
        self.assertNotIn(plain["InstanceId"], ids)

        request = self.request(spot)
        self.assertEqual((request["State"], request["Status"]["Code"]), ("active", "fulfilled"))
        self.assertEqual((request["InstanceId"], request["Type"]), (spot["InstanceId"], "one-time"))
        self.assertEqual(request["Tags"], tags)
        tagged = self.ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["spot-instances-request"]}])
        self.assertEqual(tagged["Tags"][0]["ResourceId"], request["SpotInstanceRequestId"])

        self.refused("UnsupportedOperation", self.ec2.stop_instances, InstanceIds=[spot["InstanceId"]])
        self.ec2.terminate_instances(InstanceIds=[spot["InstanceId"]])
        request = self.request(spot)
        self.assertEqual((request["State"], request["Status"]["Code"]), ("closed", "instance-terminated-by-user"))
        missing = {"SpotInstanceRequestIds": ["sir-ffffffff"]}
        self.refused("InvalidSpotInstanceRequestID.NotFound", self.ec2.describe_spot_instance_requests, **missing)

    def test_a_template_asks_for_it_and_shows_it(self):
        name = "spot-of-a-template"
        data = {"ImageId": self.base, "InstanceType": "t3.micro", "InstanceMarketOptions": SPOT}
        self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
        self.addCleanup(self.ec2.delete_launch_template, LaunchTemplateName=name)
        [version] = self.ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
        self.assertEqual(version["LaunchTemplateData"]["InstanceMarketOptions"], SPOT)
        made = self.ec2.run_instances(LaunchTemplate={"LaunchTemplateName": name}, MinCount=1, MaxCount=1)
        made = made["Instances"][0]
        self.assertEqual(made["InstanceLifecycle"], "spot")
        self.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])

        scaling, zone = client("autoscaling"), f"{self.ec2.meta.region_name}a"
        scaling.create_auto_scaling_group(
            AutoScalingGroupName="spot", MinSize=0, MaxSize=1, AvailabilityZones=[zone],
            LaunchTemplate={"LaunchTemplateName": name, "Version": "1"},
        )
        self.addCleanup(scaling.delete_auto_scaling_group, AutoScalingGroupName="spot", ForceDelete=True)
        launched = scaling.launch_instances(
            AutoScalingGroupName="spot", RequestedCapacity=1, AvailabilityZones=[zone], ClientToken="spot-1"
        )
        self.assertEqual(launched["Instances"][0]["MarketType"], "Spot")

    def test_what_machines_here_have_not_is_refused_by_name(self):
        for options in (
            {"SpotInstanceType": "persistent"},
            {"InstanceInterruptionBehavior": "stop"},
            {"InstanceInterruptionBehavior": "hibernate"},
            {"MaxPrice": "0.01"},
            {"BlockDurationMinutes": 60},
            {"ValidUntil": "2030-01-01T00:00:00Z"},
        ):
            with self.assertRaises(Exception) as refusal:
                self.launch(InstanceMarketOptions={**SPOT, "SpotOptions": options})
            self.assertIn(next(iter(options)), str(refusal.exception), json.dumps(options))
        for market in ("capacity-block", "interruptible-capacity-reservation"):
            self.refused("InvalidParameterValue", self.launch, InstanceMarketOptions={"MarketType": market})
        options = {"SpotOptions": {"SpotInstanceType": "one-time"}}
        self.refused("InvalidParameterCombination", self.launch, InstanceMarketOptions=options)


if __name__ == "__main__":
    unittest.main()
