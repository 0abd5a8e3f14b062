"""Regions: what is made in one is not found in another, and a region that there is not has no answer."""

import unittest

from wire import PATIENT, Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"
HERE, THERE = "eu-west-1", "us-west-2"


class Regions(Case):
    def at(self, service, region):
        return client(service, region_name=region)

    def base(self, region):
        return self.at("ssm", region).get_parameter(Name=BASE)["Parameter"]["Value"]

    def test_each_has_zones_and_a_network_of_its_own(self):
        seen = set()
        for region in (HERE, THERE, "us-east-1"):
            ec2 = self.at("ec2", region)
            zones = ec2.describe_availability_zones()["AvailabilityZones"]
            self.assertEqual({zone["RegionName"] for zone in zones}, {region})
            subnets = ec2.describe_subnets()["Subnets"]
            self.assertEqual(
                sorted(subnet["AvailabilityZone"] for subnet in subnets), sorted(zone["ZoneName"] for zone in zones)
            )
            self.assertGreaterEqual(len(zones), 2)
            [vpc] = ec2.describe_vpcs()["Vpcs"]
            self.assertEqual({subnet["VpcId"] for subnet in subnets}, {vpc["VpcId"]})
            [group] = ec2.describe_security_groups()["SecurityGroups"]
            self.assertEqual((group["GroupName"], group["VpcId"]), ("default", vpc["VpcId"]))
            own = {vpc["VpcId"], group["GroupId"], self.base(region), *(subnet["SubnetId"] for subnet in subnets)}
            self.assertEqual(seen & own, set())
            seen |= own
        names = {one["RegionName"]: one for one in self.at("ec2", HERE).describe_regions()["Regions"]}
        self.assertEqual(names[THERE]["Endpoint"], f"ec2.{THERE}.amazonaws.com")
        self.assertIn(HERE, names)

    def test_what_is_made_in_one_is_not_found_in_another(self):
        here, there = self.at("ec2", HERE), self.at("ec2", THERE)
        launch = {"InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        self.refused("InvalidAMIID.NotFound", there.run_instances, ImageId=self.base(HERE), **launch)
        made = here.run_instances(ImageId=self.base(HERE), **launch)["Instances"][0]
        instance = made["InstanceId"]
        self.addCleanup(here.terminate_instances, InstanceIds=[instance])
        self.assertTrue(made["Placement"]["AvailabilityZone"].startswith(HERE))
        self.assertTrue(made["PrivateDnsName"].endswith(f".{HERE}.compute.internal"))
        self.refused("InvalidInstanceID.NotFound", there.describe_instances, InstanceIds=[instance])
        self.refused("InvalidInstanceID.NotFound", there.terminate_instances, InstanceIds=[instance])
        self.refused("InvalidInstanceID.NotFound", there.create_tags, Resources=[instance], Tags=[{"Key": "a", "Value": "b"}])
        self.assertEqual(there.describe_instances()["Reservations"], [])

        image = here.create_image(InstanceId=instance, Name="of-a-region")["ImageId"]
        self.refused("InvalidAMIID.NotFound", there.describe_images, ImageIds=[image])
        self.assertEqual(there.describe_images(Owners=["self"])["Images"], [])
        snapshot = here.describe_snapshots(OwnerIds=["self"])["Snapshots"][0]["SnapshotId"]
        self.refused("InvalidSnapshot.NotFound", there.describe_snapshots, SnapshotIds=[snapshot])

        data = {"ImageId": self.base(HERE), "InstanceType": "t3.micro"}
        made = here.create_launch_template(LaunchTemplateName="one-name", LaunchTemplateData=data)
        template = made["LaunchTemplate"]["LaunchTemplateId"]
        missing = {"LaunchTemplateIds": [template]}
        self.refused("InvalidLaunchTemplateId.NotFound", there.describe_launch_templates, **missing)
        # The name is free there.
        data = {"ImageId": self.base(THERE), "InstanceType": "t3.micro"}
        there.create_launch_template(LaunchTemplateName="one-name", LaunchTemplateData=data)

        group = here.create_security_group(GroupName="of-a-region", Description="here")["GroupId"]
        self.refused("InvalidGroup.NotFound", there.delete_security_group, GroupId=group)

    def test_groups_parameters_and_commands_are_a_regions_own(self):
        ssm, other = self.at("ssm", HERE), self.at("ssm", THERE)
        ssm.put_parameter(Name="/region", Value="here", Type="String")
        self.refused("ParameterNotFound", other.get_parameter, Name="/region")
        other.put_parameter(Name="/region", Value="there", Type="String")
        self.assertEqual(ssm.get_parameter(Name="/region")["Parameter"]["Value"], "here")

        ec2 = self.at("ec2", HERE)
        launch = {"ImageId": self.base(HERE), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        instance = ec2.run_instances(**launch)["Instances"][0]["InstanceId"]
        send = {"InstanceIds": [instance], "DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["printf 42"]}}
        ec2.describe_instances(InstanceIds=[instance])
        command = ssm.send_command(**send)["Command"]["CommandId"]
        self.refused("InvalidInstanceId", other.send_command, **send)
        named = {"CommandId": command, "InstanceId": instance}
        ssm.get_waiter("command_executed").wait(**named, WaiterConfig=PATIENT)
        self.refused("InvocationDoesNotExist", other.get_command_invocation, **named)
        ec2.terminate_instances(InstanceIds=[instance])

        groups, others = self.at("autoscaling", HERE), self.at("autoscaling", THERE)
        ec2.create_launch_template(
            LaunchTemplateName="workers", LaunchTemplateData={"ImageId": self.base(HERE), "InstanceType": "t3.micro"}
        )
        groups.create_auto_scaling_group(
            AutoScalingGroupName="workers", MinSize=0, MaxSize=1, AvailabilityZones=[f"{HERE}a"],
            LaunchTemplate={"LaunchTemplateName": "workers", "Version": "1"},
        )
        self.assertEqual(others.describe_auto_scaling_groups()["AutoScalingGroups"], [])
        self.refused("ValidationError", others.set_desired_capacity, AutoScalingGroupName="workers", DesiredCapacity=1)
        [group] = groups.describe_auto_scaling_groups()["AutoScalingGroups"]
        self.assertIn(f":autoscaling:{HERE}:", group["AutoScalingGroupARN"])

    def test_a_region_that_there_is_not_is_refused(self):
        for service, call, code in (
            ("ec2", "describe_instances", "AuthFailure"),
            ("ssm", "describe_instance_information", "InvalidSignatureException"),
            ("autoscaling", "describe_auto_scaling_groups", "SignatureDoesNotMatch"),
            ("sts", "get_caller_identity", "SignatureDoesNotMatch"),
        ):
            error = self.refused(code, getattr(self.at(service, "eu-nowhere-1"), call))
            self.assertIn("eu-nowhere-1", error["Error"]["Message"])
        self.refused("InvalidParameterValue", self.at("ec2", HERE).describe_regions, RegionNames=["eu-nowhere-1"])


if __name__ == "__main__":
    unittest.main()
