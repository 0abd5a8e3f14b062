"""Things for the inputs of the conformance test to name, and what members of inputs are called by their names."""

import base64
import contextlib
import hashlib
import time
import uuid

from botocore.exceptions import ClientError, ParamValidationError
from wire import client

BASE = "/aws/service/debian/release/12/latest/amd64"
# Operations that take away what they are given: each call gets something of its own.
WEARS_OUT = (
    "Terminate", "Delete", "Deregister", "Detach", "Stop", "CompleteLifecycleAction", "EnterStandby", "ExitStandby",
    "AttachInstances", "LaunchInstances", "StartInstanceRefresh", "CancelInstanceRefresh", "RollbackInstanceRefresh",
    "Abort", "CompleteMultipartUpload", "Cancel", "SetDesiredCapacity", "UpdateAutoScalingGroup", "SetInstanceHealth",
)


class Fixtures:
    """Things for inputs to name: made when they are asked for, and anew for operations that wear them out."""

    def __init__(self):
        self.ec2, self.scaling, self.ssm = client("ec2"), client("autoscaling"), client("ssm")
        self.s3, self.secrets = client("s3"), client("secretsmanager")
        self.base = self.ssm.get_parameter(Name=BASE)["Parameter"]["Value"]
        self.zone = self.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
        self.subnet = self.ec2.describe_subnets(
            Filters=[{"Name": "availability-zone", "Values": [self.zone]}]
        )["Subnets"][0]
        self.kept = {}

    def get(self, what, fresh):
        if fresh or what not in self.kept:
            made = getattr(self, f"make_{what}")()
            if fresh:
                return made
            self.kept[what] = made
        return self.kept[what]

    def make_instance(self):
        made = self.ec2.run_instances(ImageId=self.base, InstanceType="t3.micro", MinCount=1, MaxCount=1)
        return made["Instances"][0]["InstanceId"]

    def make_spot(self):
        made = self.ec2.run_instances(
            ImageId=self.base, InstanceType="t3.micro", MinCount=1, MaxCount=1, InstanceMarketOptions={"MarketType": "spot"}
        )
        return made["Instances"][0]["SpotInstanceRequestId"]

    def make_image(self):
        instance = self.get("instance", False)
        return self.ec2.create_image(InstanceId=instance, Name=f"image-{uuid.uuid4().hex}")["ImageId"]

    def make_snapshot(self):
        image = self.make_image()
        for _ in range(200):
            found = self.ec2.describe_images(ImageIds=[image])["Images"][0]
            if found["State"] == "available":
                break
            time.sleep(0.02)
        mapping = found["BlockDeviceMappings"][0]
        self.ec2.deregister_image(ImageId=image)
        return mapping["Ebs"]["SnapshotId"]

    def make_security_group(self):
        name = f"group-{uuid.uuid4().hex}"
        return self.ec2.create_security_group(GroupName=name, Description="conformance")["GroupId"]

    def make_template(self):
        name = f"template-{uuid.uuid4().hex}"
        self.ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"ImageId": self.base, "InstanceType": "t3.micro"}
        )
        self.ec2.create_launch_template_version(
            LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.small"}
        )
        return name

    def template_id(self, name):
        found = self.ec2.describe_launch_templates(LaunchTemplateNames=[name])
        return found["LaunchTemplates"][0]["LaunchTemplateId"]

    def make_group(self):
        """A group with one instance in service; gives both."""
        name = f"group-{uuid.uuid4().hex}"
        self.scaling.create_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=0, MaxSize=3, DesiredCapacity=1, AvailabilityZones=[self.zone],
            LaunchTemplate={"LaunchTemplateName": self.get("template", False), "Version": "1"},
        )
        self.scaling.put_lifecycle_hook(
            AutoScalingGroupName=name, LifecycleHookName="hook",
            LifecycleTransition="autoscaling:EC2_INSTANCE_TERMINATING",
        )
        for _ in range(400):
            [group] = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
            serving = [one for one in group["Instances"] if one["LifecycleState"] == "InService"]
            if serving:
                return name, serving[0]["InstanceId"]
            time.sleep(0.02)
        raise AssertionError(f"{name} has no instance in service")

    def remove(self, what, made):
        """Takes away what takes up room: the local cloud has addresses for as many machines as its subnets."""
        with contextlib.suppress(ClientError, ParamValidationError):
            if what == "group":
                self.scaling.delete_auto_scaling_group(AutoScalingGroupName=made[0], ForceDelete=True)
            elif what == "instance":
                self.ec2.terminate_instances(InstanceIds=[made])

    def make_command(self):
        sent = self.ssm.send_command(
            InstanceIds=[self.get("instance", False)], DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["printf 42"]},
        )
        return sent["Command"]["CommandId"]

    def make_bucket(self):
        name = f"conformance-{uuid.uuid4().hex}"
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": self.s3.meta.region_name})
        return name

    def make_object(self):
        key = f"dir/{uuid.uuid4().hex}"
        self.s3.put_object(Bucket=self.get("bucket", False), Key=key, Body=b"0123456789")
        return key

    def make_upload(self):
        """An upload with one part; gives its key and its id."""
        key = f"dir/{uuid.uuid4().hex}"
        at = {"Bucket": self.get("bucket", False), "Key": key}
        upload = self.s3.create_multipart_upload(**at)["UploadId"]
        etag = self.s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=b"0123456789")["ETag"]
        return key, upload, etag

    def make_parameter(self):
        name = f"/conformance/{uuid.uuid4().hex}"
        self.ssm.put_parameter(Name=name, Value="value", Type="String")
        return name

    def make_secret(self):
        """Gives its ARN and the id of its version."""
        made = self.secrets.create_secret(Name=f"conformance/{uuid.uuid4().hex}", SecretString="value")
        return made["ARN"], made["VersionId"]


class Names:
    """What a member of an input is called by its name; one call's worth, so that names belong together."""

    def __init__(self, fixtures, service, operation):
        self.fixtures, self.service, self.operation = fixtures, service, operation
        self.fresh = operation.startswith(WEARS_OUT)
        self.made = {}

    def one(self, what):
        if what not in self.made:
            self.made[what] = self.fixtures.get(what, self.fresh)
        return self.made[what]

    def clean(self):
        if self.fresh:
            for what, made in self.made.items():
                self.fixtures.remove(what, made)

    def __call__(self, operation, name):
        found = getattr(self, f"for_{self.service}", lambda _: None)(name)
        if found is not None:
            return found
        fixtures = self.fixtures
        plain = {
            "ImageId": lambda: self.one("image") if operation == "DeregisterImage" else fixtures.base,
            "ImageIds": lambda: [fixtures.base],
            "InstanceType": lambda: "t3.micro",
            "InstanceTypes": lambda: ["t3.micro"],
            "LaunchTemplateName": lambda: self.one("template"),
            "LaunchTemplateNames": lambda: [self.one("template")],
            "LaunchTemplateId": lambda: fixtures.template_id(self.one("template")),
            "LaunchTemplateIds": lambda: [fixtures.template_id(self.one("template"))],
            "AvailabilityZone": lambda: fixtures.zone,
            "AvailabilityZones": lambda: [fixtures.zone],
            "SubnetId": lambda: fixtures.subnet["SubnetId"],
            "SubnetIds": lambda: [fixtures.subnet["SubnetId"]],
            "VpcId": lambda: fixtures.subnet["VpcId"],
            "VpcIds": lambda: [fixtures.subnet["VpcId"]],
            "MinCount": lambda: 1,
            "MaxCount": lambda: 1,
            "UserData": lambda: "Y29uZm9ybWFuY2U=",
            "ClientToken": lambda: uuid.uuid4().hex,
            "MaxResults": lambda: 5,
            "NextToken": lambda: None,
        }
        return plain[name]() if name in plain else None

    def for_ec2(self, name):
        operation, fixtures = self.operation, self.fixtures
        if operation == "CreateLaunchTemplate" and name == "LaunchTemplateName":
            return f"template-{uuid.uuid4().hex}"
        if name in ("InstanceId", "InstanceIds"):
            return self.one("instance")
        if name == "SpotInstanceRequestIds":
            return self.one("spot")
        if name in ("SnapshotId", "SnapshotIds"):
            return self.one("snapshot")
        if name in ("GroupId", "GroupIds", "SecurityGroupId", "SecurityGroupIds"):
            return self.one("security_group")
        return {
            ("CreateSecurityGroup", "GroupName"): lambda: f"group-{uuid.uuid4().hex}",
            ("CreateImage", "Name"): lambda: f"image-{uuid.uuid4().hex}",
            ("CreateTags", "Tags"): lambda: [{"Key": "key", "Value": "value"}],
            ("CreateLaunchTemplate", "LaunchTemplateData"): lambda: {"ImageId": fixtures.base},
            ("CreateTags", "Resources"): lambda: [self.one("instance")],
            ("DeleteTags", "Resources"): lambda: [self.one("instance")],
            ("DeleteLaunchTemplateVersions", "Versions"): lambda: ["2"],
            ("DescribeLaunchTemplateVersions", "Versions"): lambda: ["1"],
            ("CreateLaunchTemplateVersion", "SourceVersion"): lambda: "1",
            ("ModifyLaunchTemplate", "DefaultVersion"): lambda: "1",
            ("DescribeAvailabilityZones", "ZoneNames"): lambda: [fixtures.zone],
            ("DescribeRegions", "RegionNames"): lambda: [fixtures.ec2.meta.region_name],
        }.get((operation, name), lambda: None)()

    def for_autoscaling(self, name):
        operation, fixtures = self.operation, self.fixtures
        if name in ("AutoScalingGroupName", "AutoScalingGroupNames"):
            if operation == "CreateAutoScalingGroup":
                return f"group-{uuid.uuid4().hex}"
            return self.one("group")[0]
        if name in ("InstanceId", "InstanceIds") and operation != "CreateAutoScalingGroup":
            if operation == "AttachInstances":
                return self.one("instance")
            if operation == "DescribeAutoScalingInstances":
                return self.one("group")[1]
            return self.one("group")[1]
        return {
            "LifecycleHookName": lambda: "hook",
            "LifecycleHookNames": lambda: ["hook"],
            "LifecycleTransition": lambda: "autoscaling:EC2_INSTANCE_TERMINATING",
            "LifecycleActionResult": lambda: "CONTINUE",
            "LaunchTemplate": lambda: {"LaunchTemplateName": fixtures.get("template", False), "Version": "1"},
            "Tags": lambda: self.tags(),
            "MinSize": lambda: 0,
            "MaxSize": lambda: 2,
            "DesiredCapacity": lambda: 1,
            "RequestedCapacity": lambda: 1,
            "HealthStatus": lambda: "Healthy",
            "ScalingProcesses": lambda: ["AZRebalance"],
            "ResourceId": lambda: self.one("group")[0],
            "ResourceType": lambda: "auto-scaling-group",
        }.get(name, lambda: None)()

    def tags(self):
        tag = {"ResourceId": self.one("group")[0], "ResourceType": "auto-scaling-group", "Key": "key"}
        if self.operation == "CreateOrUpdateTags":
            return [{**tag, "Value": "value", "PropagateAtLaunch": True}]
        return [tag] if self.operation == "DeleteTags" else None

    def for_ssm(self, name):
        operation = self.operation
        if name in ("InstanceId", "InstanceIds"):
            return self.one("instance")
        if operation == "PutParameter" and name == "Name":
            return f"/conformance/{uuid.uuid4().hex}"
        if name in ("Name", "Names") and operation != "SendCommand":
            return self.one("parameter")
        return {
            "CommandId": lambda: self.one("command"),
            "OutputS3BucketName": lambda: self.fixtures.get("bucket", False),
            "DocumentName": lambda: "AWS-RunShellScript",
            "Path": lambda: "/conformance",
            "Type": lambda: "String",
            ("SendCommand", "Parameters"): lambda: {"commands": ["printf 42"]},
        }.get(name if name != "Parameters" else (operation, name), lambda: None)()

    def for_secretsmanager(self, name):
        if name == "Name":
            return f"conformance/{uuid.uuid4().hex}"
        return {
            "SecretId": lambda: self.one("secret")[0],
            "VersionId": lambda: self.one("secret")[1],
            "VersionStage": lambda: "AWSCURRENT",
            "RecoveryWindowInDays": lambda: 7,
        }.get(name, lambda: None)()

    def for_sts(self, name):
        return {
            "RoleArn": lambda: "arn:aws:iam::000000000000:role/conformance",
            "Tags": lambda: [{"Key": "key", "Value": "value"}],
            "SourceIdentity": lambda: "somebody",
        }.get(name, lambda: None)()

    def for_s3(self, name):
        operation, fixtures = self.operation, self.fixtures
        if name == "Bucket":
            if operation == "CreateBucket":
                return f"conformance-{uuid.uuid4().hex}"
            # What is in one is not worn out with it.
            return fixtures.get("bucket", operation == "DeleteBucket")
        uploads = operation in ("UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload")
        if name == "Key":
            return self.one("upload")[0] if uploads else self.one("object")
        return {
            "UploadId": lambda: self.one("upload")[1],
            "PartNumber": lambda: 1,
            "MultipartUpload": lambda: {"Parts": [{"ETag": self.one("upload")[2], "PartNumber": 1}]},
            "CreateBucketConfiguration": lambda: {"LocationConstraint": fixtures.s3.meta.region_name},
            "ExpectedBucketOwner": lambda: "000000000000",
            "Body": lambda: b"0123456789",
            "ContentLength": lambda: 10,
            "ContentMD5": lambda: base64.b64encode(hashlib.md5(b"0123456789").digest()).decode(),
            "ChecksumSHA1": lambda: base64.b64encode(hashlib.sha1(b"0123456789").digest()).decode(),
            "ChecksumSHA256": lambda: base64.b64encode(hashlib.sha256(b"0123456789").digest()).decode(),
            "Range": lambda: "bytes=0-3",
            "IfMatch": lambda: f'"{hashlib.md5(b"0123456789").hexdigest()}"',
            "IfNoneMatch": lambda: "*",
            "VersionId": lambda: "null",
            "MpuObjectSize": lambda: 10,
        }.get(name, lambda: None)()
