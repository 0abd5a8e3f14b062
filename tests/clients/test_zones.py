"""Availability zones: subnets, placement, and groups that are spread over them."""

import collections
import json
import time
import unittest
import uuid

from wire import Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"


class Zones(Case):
    def setUp(self):
        super().setUp()
        self.ec2, self.scaling = client("ec2"), client("autoscaling")
        self.base = client("ssm").get_parameter(Name=BASE)["Parameter"]["Value"]
        zones = self.ec2.describe_availability_zones()["AvailabilityZones"]
        self.zones = [zone["ZoneName"] for zone in zones]
        subnets = self.ec2.describe_subnets()["Subnets"]
        self.subnets = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in subnets}

    def run_one(self, **where):
        made = self.ec2.run_instances(ImageId=self.base, MinCount=1, MaxCount=1, **where)["Instances"][0]
        self.addCleanup(self.ec2.terminate_instances, InstanceIds=[made["InstanceId"]])
        return made

    def test_a_zone_has_a_subnet_and_instances_go_where_they_are_told(self):
        self.assertEqual([zone[-1] for zone in self.zones], ["a", "b", "c"])
        self.assertEqual(sorted(self.subnets), self.zones)
        by_zone = self.run_one(Placement={"AvailabilityZone": self.zones[1]})
        self.assertEqual(by_zone["SubnetId"], self.subnets[self.zones[1]])
        by_subnet = self.run_one(SubnetId=self.subnets[self.zones[2]])
        self.assertEqual(by_subnet["Placement"]["AvailabilityZone"], self.zones[2])
        filters = [{"Name": "availability-zone", "Values": [self.zones[2]]}]
        there = self.ec2.describe_instances(Filters=filters)["Reservations"]
        ids = [one["InstanceId"] for reservation in there for one in reservation["Instances"]]
        self.assertIn(by_subnet["InstanceId"], ids)
        self.assertNotIn(by_zone["InstanceId"], ids)
        arguments = {"ImageId": self.base, "MinCount": 1, "MaxCount": 1}
        self.refused(
            "InvalidParameterValue", self.ec2.run_instances, **arguments,
            SubnetId=self.subnets[self.zones[2]], Placement={"AvailabilityZone": self.zones[0]},
        )
        self.refused("InvalidSubnetID.NotFound", self.ec2.run_instances, **arguments, SubnetId="subnet-0123456789abcdef0")

    def test_a_group_is_spread_over_its_zones(self):
        name = f"zones-{uuid.uuid4().hex[:12]}"
        named = {"AutoScalingGroupName": name}
        template = self.ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"ImageId": self.base, "InstanceType": "t3.medium"}
        )["LaunchTemplate"]
        create = {
            **named, "MinSize": 0, "MaxSize": 8, "DesiredCapacity": 4,
            "LaunchTemplate": {"LaunchTemplateId": template["LaunchTemplateId"], "Version": "1"},
        }
        two = ",".join(self.subnets[zone] for zone in self.zones[:2])
        self.refused(
            "ValidationError", self.scaling.create_auto_scaling_group,
            **create, VPCZoneIdentifier=two, AvailabilityZones=[self.zones[2]],
        )
        self.refused("ValidationError", self.scaling.create_auto_scaling_group, **create)
        self.scaling.create_auto_scaling_group(**create, VPCZoneIdentifier=two)
        self.addCleanup(self.scaling.delete_auto_scaling_group, **named, ForceDelete=True)
        first, second, third = self.zones

        def spread():
            [group] = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
            self.assertEqual(group["AvailabilityZones"], [first, second])
            serving = [one for one in group["Instances"] if one["LifecycleState"] == "InService"]
            return collections.Counter(one["AvailabilityZone"] for one in serving)

        def until(expected):
            for _ in range(200):
                if spread() == expected:
                    return
                time.sleep(0.05)
            self.fail(f"expected {expected}, there is {spread()}")

        until({first: 2, second: 2})
        # Which zone must be said, and it must be one of the group's.
        launch = {**named, "RequestedCapacity": 2}
        for wrong in ({}, {"AvailabilityZones": [third]}, {"SubnetIds": [self.subnets[third]]}):
            self.refused("ValidationError", self.scaling.launch_instances, **launch, ClientToken="t0", **wrong)
        made = self.scaling.launch_instances(**launch, ClientToken="t1", AvailabilityZones=[second])
        self.assertEqual([one["AvailabilityZone"] for one in made["Instances"]], [second])
        self.assertEqual(made["Instances"][0]["SubnetId"], self.subnets[second])
        again = self.scaling.launch_instances(**launch, ClientToken="t1", AvailabilityZones=[second])
        self.assertEqual(again["Instances"], made["Instances"])
        until({first: 2, second: 4})
        # What is missing goes to the zone that has fewer; what is too much leaves the one that has more.
        self.scaling.set_desired_capacity(**named, DesiredCapacity=7)
        until({first: 3, second: 4})
        self.scaling.set_desired_capacity(**named, DesiredCapacity=4)
        until({first: 2, second: 2})
        # An activity says where its instance is, or was.
        done = self.scaling.describe_scaling_activities(**named)["Activities"]
        places = [json.loads(one["Details"]) for one in done]
        self.assertEqual({place["Availability Zone"] for place in places}, {first, second})
        for place in places:
            self.assertEqual(place["Subnet ID"], self.subnets[place["Availability Zone"]])


if __name__ == "__main__":
    unittest.main()
