"""What EC2, SSM, STS and Image Builder document, asked by boto3: fields, errors, client tokens, pages."""

import os
import time
import unittest
import uuid
from datetime import datetime, timedelta, timezone

from wire import PATIENT, Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"
NOBODY = "i-0123456789abcdef0"


def unique(prefix):
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def filters(**values):
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in values.items()]


class Network(Case):
    def test_the_default_network(self):
        ec2 = client("ec2")
        region = ec2.meta.region_name
        regions = ec2.describe_regions(RegionNames=[region])["Regions"]
        self.assertEqual([entry["RegionName"] for entry in regions], [region])
        zones = ec2.describe_availability_zones()["AvailabilityZones"]
        self.assertEqual({zone["RegionName"] for zone in zones}, {region})
        [vpc] = ec2.describe_vpcs(Filters=filters(is_default="true"))["Vpcs"]
        self.assertEqual(vpc["CidrBlock"], "172.31.0.0/16")
        subnets = ec2.describe_subnets(Filters=filters(vpc_id=vpc["VpcId"]))["Subnets"]
        self.assertEqual(
            {subnet["AvailabilityZone"] for subnet in subnets}, {zone["ZoneName"] for zone in zones}
        )

    def test_security_groups(self):
        ec2 = client("ec2")
        name = unique("group")
        [vpc] = ec2.describe_vpcs()["Vpcs"]
        asked = {"GroupName": name, "Description": "a test's", "VpcId": vpc["VpcId"]}
        group = ec2.create_security_group(**asked)["GroupId"]
        self.refused("InvalidGroup.Duplicate", ec2.create_security_group, **asked)
        [found] = ec2.describe_security_groups(Filters=filters(group_name=name))["SecurityGroups"]
        self.assertEqual((found["GroupId"], found["IpPermissions"]), (group, []))
        ec2.delete_security_group(GroupId=group)
        self.refused("InvalidGroup.NotFound", ec2.describe_security_groups, GroupIds=[group])
        self.refused("InvalidGroup.NotFound", ec2.delete_security_group, GroupId=group)

    def test_instance_types(self):
        ec2 = client("ec2")
        [kind] = ec2.describe_instance_types(InstanceTypes=["t3.medium"])["InstanceTypes"]
        self.assertEqual((kind["VCpuInfo"]["DefaultVCpus"], kind["MemoryInfo"]["SizeInMiB"]), (2, 4096))
        self.refused("InvalidInstanceType", ec2.describe_instance_types, InstanceTypes=["t3.gigantic"])


class Instances(Case):
    def setUp(self):
        super().setUp()
        self.ec2 = client("ec2")
        self.base = client("ssm").get_parameter(Name=BASE)["Parameter"]["Value"]
        self.launched = []
        self.addCleanup(self.end)

    def end(self):
        if self.launched:
            self.ec2.terminate_instances(InstanceIds=self.launched)

    def run_one(self, **more):
        asked = {"ImageId": self.base, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        instance = self.ec2.run_instances(**{**asked, **more})["Instances"][0]
        self.launched.append(instance["InstanceId"])
        return instance

    def look(self, instance):
        [found] = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
        return found

    def wait(self, state, instance):
        waiter = self.ec2.get_waiter("instance_" + state)
        waiter.wait(InstanceIds=[instance], WaiterConfig=PATIENT)

    def test_a_client_token_launches_once(self):
        token = unique("token")
        first = self.run_one(ClientToken=token)["InstanceId"]
        self.assertEqual(self.run_one(ClientToken=token)["InstanceId"], first)
        self.refused("DryRunOperation", self.run_one, ClientToken=token, DryRun=True)
        self.refused(
            "IdempotentParameterMismatch",
            self.ec2.run_instances,
            ClientToken=token, ImageId=self.base, InstanceType="t3.small", MinCount=1, MaxCount=1,
        )
        found = self.ec2.describe_instances(Filters=filters(client_token=token))["Reservations"]
        self.assertEqual([entry["Instances"][0]["InstanceId"] for entry in found], [first])

    def test_what_cannot_be_launched(self):
        run = self.ec2.run_instances
        count = {"MinCount": 1, "MaxCount": 1}
        good = {"ImageId": self.base, "InstanceType": "t3.micro", **count}
        error = self.refused("DryRunOperation", run, DryRun=True, **good)
        self.assertEqual(error["ResponseMetadata"]["HTTPStatusCode"], 412)
        missing = {**good, "ImageId": "ami-0123456789abcdef0"}
        self.refused("InvalidAMIID.NotFound", run, **missing)
        self.refused("InvalidAMIID.Malformed", run, **{**good, "ImageId": "debian"})
        self.refused("InvalidKeyPair.NotFound", run, KeyName="nobody", **good)
        self.refused("InvalidSubnetID.NotFound", run, SubnetId="subnet-0123456789abcdef0", **good)
        self.refused("InvalidGroup.NotFound", run, SecurityGroupIds=["sg-0123456789abcdef0"], **good)
        found = self.ec2.describe_instances(Filters=filters(instance_state_name="pending"))
        self.assertEqual(found["Reservations"], [])

    def test_what_is_asked_of_an_instance_is_shown_or_refused(self):
        tags = [{"Key": "purpose", "Value": unique("interface")}]
        subnet = self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        profile = "arn:aws:iam::000000000000:instance-profile/worker"
        instance = self.run_one(
            Monitoring={"Enabled": True},
            EbsOptimized=True,
            IamInstanceProfile={"Arn": profile},
            NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet, "DeleteOnTermination": True}],
            TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}],
        )
        self.assertEqual(instance["Monitoring"]["State"], "pending")
        self.wait("running", instance["InstanceId"])
        instance = self.look(instance["InstanceId"])
        self.assertEqual((instance["Monitoring"]["State"], instance["EbsOptimized"]), ("enabled", True))
        self.assertEqual((instance["SubnetId"], instance["IamInstanceProfile"]["Arn"]), (subnet, profile))
        [interface] = instance["NetworkInterfaces"]
        [found] = self.ec2.describe_tags(Filters=filters(value=tags[0]["Value"]))["Tags"]
        expected = {"ResourceId": interface["NetworkInterfaceId"], "ResourceType": "network-interface", **tags[0]}
        self.assertEqual(found, expected)
        more = [{"Key": "more", "Value": ""}]
        self.ec2.create_tags(Resources=[interface["NetworkInterfaceId"]], Tags=more)
        self.assertEqual(len(self.ec2.describe_tags(Filters=filters(resource_type="network-interface"))["Tags"]), 2)

        data = {"ImageId": self.base, "InstanceType": "t3.micro"}
        one = {"DeviceIndex": 0}
        root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9}}
        kept = {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False}}
        [group] = self.ec2.describe_security_groups(Filters=filters(group_name="default"))["SecurityGroups"]
        for name, code, wrong in [
            ("DeviceIndex", "InvalidParameterValue", {"NetworkInterfaces": [{"DeviceIndex": 1}]}),
            ("Public", "InvalidParameterValue", {"NetworkInterfaces": [{**one, "AssociatePublicIpAddress": True}]}),
            ("DeleteOn", "InvalidParameterValue", {"NetworkInterfaces": [{**one, "DeleteOnTermination": False}]}),
            ("SubnetId", "InvalidParameterCombination", {"NetworkInterfaces": [one], "SubnetId": subnet}),
            (
                "SecurityGroupId", "InvalidParameterCombination",
                {"NetworkInterfaces": [one], "SecurityGroupIds": [group["GroupId"]]},
            ),
            (
                "IamInstanceProfile", "InvalidParameterCombination",
                {"IamInstanceProfile": {"Name": "worker", "Arn": profile}},
            ),
            ("DeleteOn", "InvalidParameterValue", {"BlockDeviceMappings": [kept]}),
            ("/dev/xvda", "InvalidBlockDeviceMapping", {"BlockDeviceMappings": [root, root]}),
            ("IamInstanceProfile.Arn", "InvalidParameterValue", {"IamInstanceProfile": {"Arn": "nonsense"}}),
        ]:
            with self.subTest(name):
                error = self.refused(code, self.ec2.run_instances, **data, **wrong, MinCount=1, MaxCount=1)
                self.assertIn(name, error["Error"]["Message"])
                if "SubnetId" in wrong:
                    # Not a member of a template.
                    continue
                self.refused(
                    code, self.ec2.create_launch_template,
                    LaunchTemplateName=unique("refused"), LaunchTemplateData={**data, **wrong},
                )

    def test_ids_that_stand_for_nothing(self):
        for call in [
            self.ec2.describe_instances,
            self.ec2.stop_instances,
            self.ec2.start_instances,
            self.ec2.reboot_instances,
            self.ec2.terminate_instances,
        ]:
            self.refused("InvalidInstanceID.NotFound", call, InstanceIds=[NOBODY])
            self.refused("InvalidInstanceID.Malformed", call, InstanceIds=["machine"])
        self.refused("InvalidSnapshot.NotFound", self.ec2.describe_snapshots, SnapshotIds=["snap-0123456789abcdef0"])
        self.refused("InvalidVolume.NotFound", self.ec2.describe_volumes, VolumeIds=["vol-0123456789abcdef0"])
        self.refused("InvalidAMIID.NotFound", self.ec2.describe_images, ImageIds=["ami-0123456789abcdef0"])

    def test_states_tags_and_an_image(self):
        tags = [{"Key": "purpose", "Value": unique("answers")}]
        instance = self.run_one(
            TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
            BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9, "VolumeType": "gp3"}}],
        )["InstanceId"]
        self.wait("running", instance)
        status = self.ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"]
        self.assertEqual([entry["InstanceState"]["Name"] for entry in status], ["running"])
        [volume] = self.ec2.describe_volumes(Filters=[{"Name": "tag:purpose", "Values": [tags[0]["Value"]]}])["Volumes"]
        self.assertEqual((volume["Size"], volume["Tags"]), (9, tags))
        self.assertIn("Output", self.ec2.get_console_output(InstanceId=instance))

        change = self.ec2.stop_instances(InstanceIds=[instance])["StoppingInstances"][0]
        self.assertEqual(change["PreviousState"]["Name"], "running")
        self.wait("stopped", instance)

        name = unique("image")
        image = self.ec2.create_image(
            InstanceId=instance,
            Name=name,
            TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")],
        )["ImageId"]
        self.refused("InvalidAMIName.Duplicate", self.ec2.create_image, InstanceId=instance, Name=name)
        kept = [{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False}}]
        asked = {"InstanceId": instance, "Name": name + "-kept", "BlockDeviceMappings": kept}
        self.refused("InvalidParameterValue", self.ec2.create_image, **asked)
        self.ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig=PATIENT)
        [found] = self.ec2.describe_images(Owners=["self"], Filters=filters(name=name[:-4] + "*"))["Images"]
        self.assertEqual((found["ImageId"], found["Tags"]), (image, tags))
        snapshot = found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        [taken] = self.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
        self.assertEqual((taken["State"], taken["Progress"], taken["VolumeSize"]), ("completed", "100%", 9))
        self.refused("InvalidSnapshot.InUse", self.ec2.delete_snapshot, SnapshotId=snapshot)

        self.ec2.create_tags(Resources=[image], Tags=[{"Key": "status", "Value": "ready"}])
        listed = self.ec2.describe_tags(Filters=filters(resource_id=image))["Tags"]
        self.assertEqual({tag["Key"] for tag in listed}, {"purpose", "status"})
        self.ec2.delete_tags(Resources=[image], Tags=[{"Key": "status"}])
        self.ec2.deregister_image(ImageId=image)
        self.ec2.delete_snapshot(SnapshotId=snapshot)
        self.refused("InvalidSnapshot.NotFound", self.ec2.delete_snapshot, SnapshotId=snapshot)
        first = self.look(instance)
        # Times have whole seconds; the image took none of them.
        while datetime.now(timezone.utc) < first["LaunchTime"] + timedelta(seconds=1):
            time.sleep(0.02)
        self.ec2.start_instances(InstanceIds=[instance])
        self.wait("running", instance)
        again = self.look(instance)
        self.assertGreater(again["LaunchTime"], first["LaunchTime"])
        attached = again["NetworkInterfaces"][0]["Attachment"]["AttachTime"]
        self.assertEqual(attached, first["LaunchTime"])
        self.ec2.terminate_instances(InstanceIds=[instance])
        self.wait("terminated", instance)
        self.refused("IncorrectInstanceState", self.ec2.start_instances, InstanceIds=[instance])

    def test_a_group_in_use_stays(self):
        group = self.ec2.create_security_group(GroupName=unique("group"), Description="a test's")["GroupId"]
        instance = self.run_one(SecurityGroupIds=[group])["InstanceId"]
        self.refused("DependencyViolation", self.ec2.delete_security_group, GroupId=group)
        self.ec2.terminate_instances(InstanceIds=[instance])
        self.wait("terminated", instance)
        self.ec2.delete_security_group(GroupId=group)

    def test_pages(self):
        purpose = [{"Key": "purpose", "Value": unique("pages")}]
        started = self.ec2.run_instances(
            ImageId=self.base, InstanceType="t3.micro", MinCount=6, MaxCount=6,
            TagSpecifications=[{"ResourceType": "instance", "Tags": purpose}],
        )["Instances"]
        self.launched += [entry["InstanceId"] for entry in started]
        for _ in range(2):
            asked = {"Filters": [{"Name": "tag:purpose", "Values": [purpose[0]["Value"]]}]}
            # One reservation holds all six; another makes a second page.
            pages = self.ec2.get_paginator("describe_instances").paginate(**asked, PaginationConfig={"PageSize": 5})
            found = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
            self.assertEqual(sorted(found), sorted(self.launched))
            more = self.run_one(TagSpecifications=[{"ResourceType": "instance", "Tags": purpose}])
            self.assertNotIn(more["InstanceId"], found)
        token = self.ec2.describe_instances(MaxResults=5)["NextToken"]
        self.refused("InvalidNextToken", self.ec2.describe_instance_status, NextToken=token)
        ssm = client("ssm")
        for call in [
            self.ec2.describe_instances, self.ec2.describe_vpcs, self.ec2.describe_subnets, ssm.describe_parameters,
            ssm.list_commands, client("autoscaling").describe_auto_scaling_groups,
        ]:
            self.refused("InvalidNextToken", call, NextToken="AAAA")


class Parameters(Case):
    def test_versions_limits_and_paths(self):
        ssm = client("ssm")
        path = "/" + unique("answers")
        name = path + "/latest"
        self.assertEqual(ssm.put_parameter(Name=name, Value="one", Type="String")["Version"], 1)
        self.refused("ParameterAlreadyExists", ssm.put_parameter, Name=name, Value="two", Type="String")
        self.assertEqual(ssm.put_parameter(Name=name, Value="two", Type="String", Overwrite=True)["Version"], 2)
        self.assertEqual(ssm.get_parameter(Name=name)["Parameter"]["Value"], "two")
        self.assertEqual(ssm.get_parameter(Name=name + ":1")["Parameter"]["Value"], "one")
        long = {"Name": path + "/long", "Value": "x" * 4097, "Type": "String"}
        self.refused("ValidationException", ssm.put_parameter, **long)
        self.assertEqual(ssm.put_parameter(Tier="Intelligent-Tiering", **long)["Tier"], "Advanced")
        below = ssm.get_parameters_by_path(Path=path, Recursive=True)["Parameters"]
        self.assertEqual([entry["Name"] for entry in below], [name, path + "/long"])
        some = ssm.get_parameters(Names=[name, path + "/none"])
        self.assertEqual(([p["Name"] for p in some["Parameters"]], some["InvalidParameters"]), ([name], [path + "/none"]))
        described = ssm.describe_parameters(
            ParameterFilters=[{"Key": "Name", "Option": "BeginsWith", "Values": [path]}]
        )["Parameters"]
        self.assertEqual({entry["Name"] for entry in described}, {name, path + "/long"})
        gone = ssm.delete_parameters(Names=[name, path + "/long", path + "/none"])
        self.assertEqual((len(gone["DeletedParameters"]), gone["InvalidParameters"]), (2, [path + "/none"]))
        self.refused("ParameterNotFound", ssm.get_parameter, Name=name)
        self.refused("ParameterNotFound", ssm.delete_parameter, Name=name)


class Commands(Case):
    def test_what_is_refused(self):
        ssm = client("ssm")
        asked = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
        self.refused("InvalidInstanceId", ssm.send_command, InstanceIds=[NOBODY], **asked)
        other = {"DocumentName": "AWS-RunPowerShellScript", "Parameters": {"commands": ["true"]}}
        self.refused("InvalidDocument", ssm.send_command, InstanceIds=[NOBODY], **other)
        ids = {"CommandId": str(uuid.uuid4()), "InstanceId": NOBODY}
        self.refused("InvocationDoesNotExist", ssm.get_command_invocation, **ids)
        self.refused("InvalidCommandId", ssm.cancel_command, CommandId=ids["CommandId"])
        # The client writes down no member that its model has not.
        event = "before-call.ssm.ListCommands"
        ssm.meta.events.register(event, lambda params, **_: params.update(body=b'{"Details": true}'))
        error = self.refused("ValidationException", ssm.list_commands)
        self.assertIn("Details", error["Error"]["Message"])


class Refusals(Case):
    def test_other_operations_by_name(self):
        said = self.refused("InvalidAction", client("ec2").describe_key_pairs)
        self.assertIn("DescribeKeyPairs", said["Error"]["Message"])
        self.refused("InvalidAction", client("sts").get_session_token)
        self.refused("UnknownOperationException", client("ssm").list_documents)

    def test_other_images_of_image_builder(self):
        builder = client("imagebuilder")
        self.assertEqual(builder.list_images()["imageVersionList"], [])
        arn = f"arn:aws:imagebuilder:{builder.meta.region_name}:000000000000:image/nothing/1.0.0/1"
        self.refused("ResourceNotFoundException", builder.get_image, imageBuildVersionArn=arn)

    def test_other_keys(self):
        wrong = {"aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "not the secret"}
        self.refused("AuthFailure", client("ec2", **wrong).describe_regions)
        self.refused("SignatureDoesNotMatch", client("sts", **wrong).get_caller_identity)
        self.refused("InvalidSignatureException", client("ssm", **wrong).get_parameter, Name=BASE)
        stranger = {"aws_access_key_id": "AKIA0000000000000000", "aws_secret_access_key": "x"}
        self.refused("AuthFailure", client("ec2", **stranger).describe_regions)
        self.refused("InvalidClientTokenId", client("sts", **stranger).get_caller_identity)
        self.refused("UnrecognizedClientException", client("ssm", **stranger).get_parameter, Name=BASE)


if __name__ == "__main__":
    unittest.main()
