"""Launch templates, asked by boto3 and held against AWS's own model."""

import unittest
import uuid

from wire import Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"


class LaunchTemplates(Case):
    def setUp(self):
        super().setUp()
        self.ec2 = client("ec2")
        self.base = client("ssm").get_parameter(Name=BASE)["Parameter"]["Value"]
        self.name = f"template-{uuid.uuid4().hex[:12]}"
        self.data = {
            "ImageId": self.base,
            "InstanceType": "t3.medium",
            "IamInstanceProfile": {"Name": "worker"},
            "UserData": "IyEvYmluL3NoCg==",
            "MetadataOptions": {
                "HttpTokens": "required",
                "HttpPutResponseHopLimit": 2,
                "HttpEndpoint": "enabled",
                "InstanceMetadataTags": "enabled",
            },
            "SecurityGroupIds": [self.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"VolumeSize": 10, "VolumeType": "gp3", "DeleteOnTermination": True},
                }
            ],
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "Team", "Value": "ci"}]},
                {"ResourceType": "volume", "Tags": [{"Key": "Empty", "Value": ""}]},
            ],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "DisableApiTermination": False,
            "Monitoring": {"Enabled": False},
            "Placement": {"Tenancy": "default"},
            "EbsOptimized": False,
        }

    def create(self, **more):
        made = self.ec2.create_launch_template(
            LaunchTemplateName=self.name, LaunchTemplateData=self.data, **more
        )["LaunchTemplate"]
        self.addCleanup(self.ec2.delete_launch_template, LaunchTemplateId=made["LaunchTemplateId"])
        return made

    def test_what_is_given_is_shown(self):
        tags = [{"Key": "Owner", "Value": "a test"}]
        made = self.create(
            VersionDescription="first",
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
        )
        [version] = self.ec2.describe_launch_template_versions(
            LaunchTemplateId=made["LaunchTemplateId"], Versions=["$Latest"]
        )["LaunchTemplateVersions"]
        self.assertEqual(version["LaunchTemplateData"], self.data)
        self.assertEqual((version["VersionDescription"], version["DefaultVersion"]), ("first", True))
        [found] = self.ec2.describe_launch_templates(
            Filters=[{"Name": "tag:Owner", "Values": ["a *"]}, {"Name": "launch-template-name", "Values": [self.name]}]
        )["LaunchTemplates"]
        self.assertEqual((found["LaunchTemplateName"], found["Tags"]), (self.name, tags))

    def test_a_network_interface_is_shown(self):
        groups = self.data.pop("SecurityGroupIds")
        subnet = self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": False, "SubnetId": subnet, "Groups": groups}
        self.data["NetworkInterfaces"] = [interface]
        made = self.create()
        [version] = self.ec2.describe_launch_template_versions(
            LaunchTemplateName=made["LaunchTemplateName"]
        )["LaunchTemplateVersions"]
        self.assertEqual(version["LaunchTemplateData"]["NetworkInterfaces"], [interface])

    def test_pages_and_bounds_of_versions(self):
        made = self.create()
        by_id = {"LaunchTemplateId": made["LaunchTemplateId"]}
        for _ in range(4):
            self.ec2.create_launch_template_version(**by_id, SourceVersion="1", LaunchTemplateData={})
        pages = self.ec2.get_paginator("describe_launch_template_versions").paginate(
            **by_id, PaginationConfig={"PageSize": 2}
        )
        sizes = []
        numbers = []
        for page in pages:
            sizes.append(len(page["LaunchTemplateVersions"]))
            numbers += [version["VersionNumber"] for version in page["LaunchTemplateVersions"]]
        self.assertEqual((sizes, numbers), ([2, 2, 1], [5, 4, 3, 2, 1]))
        between = self.ec2.describe_launch_template_versions(**by_id, MinVersion="2", MaxVersion="3")
        self.assertEqual([v["VersionNumber"] for v in between["LaunchTemplateVersions"]], [3, 2])
        latest = self.ec2.describe_launch_template_versions(Versions=["$Latest"])["LaunchTemplateVersions"]
        self.assertIn((self.name, 5), [(v["LaunchTemplateName"], v["VersionNumber"]) for v in latest])

    def test_client_tokens(self):
        token = {"ClientToken": uuid.uuid4().hex}
        made = self.create(**token)
        again = {"LaunchTemplateName": self.name, "LaunchTemplateData": self.data, **token}
        self.assertEqual(self.ec2.create_launch_template(**again)["LaunchTemplate"], made)
        self.refused("DryRunOperation", self.ec2.create_launch_template, DryRun=True, **again)
        asked = {"LaunchTemplateName": self.name, "LaunchTemplateData": {"InstanceType": "t3.large"}, **token}
        for _ in range(2):
            version = self.ec2.create_launch_template_version(**asked)["LaunchTemplateVersion"]
            self.assertEqual(version["VersionNumber"], 2)
        self.refused("DryRunOperation", self.ec2.create_launch_template_version, DryRun=True, **asked)

        modify = self.ec2.modify_launch_template
        second = {"LaunchTemplateName": self.name, "DefaultVersion": "2", **token}
        modified = [modify(**second), modify(LaunchTemplateName=self.name, DefaultVersion="1"), modify(**second)]
        self.assertEqual([one["LaunchTemplate"]["DefaultVersionNumber"] for one in modified], [2, 1, 1])
        self.refused("DryRunOperation", modify, DryRun=True, **second)
        self.refused("IdempotentParameterMismatch", modify, **{**second, "DefaultVersion": "1"})

    def test_an_image_by_a_parameter_is_found_at_each_launch(self):
        ssm = client("ssm")
        parameter = f"/templates/{uuid.uuid4().hex}"
        ssm.put_parameter(Name=parameter, Value="ami-0123456789abcdef0", Type="String")
        image = f"resolve:ssm:{parameter}"
        self.data["ImageId"] = image
        self.create()
        by_name = {"LaunchTemplateName": self.name}
        launch = {"LaunchTemplate": by_name, "MinCount": 1, "MaxCount": 1}
        self.refused("InvalidAMIID.NotFound", self.ec2.run_instances, **launch)
        ssm.put_parameter(Name=parameter, Value=self.base, Type="String", Overwrite=True)
        plain = {"InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        public = f"resolve:ssm:{BASE}"
        for asked in [launch, *({"ImageId": one, **plain} for one in (image, image + ":2", public))]:
            [instance] = self.ec2.run_instances(**asked)["Instances"]
            self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
            self.assertEqual(instance["ImageId"], self.base)
        self.refused("InvalidAMIID.NotFound", self.ec2.run_instances, ImageId=image + ":1", **plain)
        for wrong in [image + ":3", image + "/none", "resolve:ssm:arn:aws:ssm:eu-central-1:000000000000:parameter/x"]:
            error = self.refused("InvalidParameterValue", self.ec2.run_instances, ImageId=wrong, **plain)
            self.assertIn("ImageId", error["Error"]["Message"])

        for resolve, expected in [(False, image), (True, self.base)]:
            [version] = self.ec2.describe_launch_template_versions(**by_name, ResolveAlias=resolve)["LaunchTemplateVersions"]
            self.assertEqual(version["LaunchTemplateData"]["ImageId"], expected)
        version = self.ec2.create_launch_template_version(
            **by_name, SourceVersion="1", ResolveAlias=True, LaunchTemplateData={"InstanceType": "t3.large"}
        )["LaunchTemplateVersion"]
        self.assertEqual(version["LaunchTemplateData"]["ImageId"], self.base)
        scaling = client("autoscaling")
        group = {"AutoScalingGroupName": self.name}
        zone = self.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
        scaling.create_auto_scaling_group(
            **group, LaunchTemplate=by_name, MinSize=0, MaxSize=0, AvailabilityZones=[zone]
        )
        scaling.delete_auto_scaling_group(**group)

    def test_refusals(self):
        made = self.create()
        again = {"LaunchTemplateName": self.name, "LaunchTemplateData": self.data}
        self.refused("DryRunOperation", self.ec2.delete_launch_template, LaunchTemplateName=self.name, DryRun=True)
        self.refused("InvalidLaunchTemplateName.AlreadyExistsException", self.ec2.create_launch_template, **again)
        self.refused(
            "InvalidLaunchTemplateId.VersionNotFound",
            self.ec2.create_launch_template_version,
            LaunchTemplateId=made["LaunchTemplateId"],
            SourceVersion="9",
            LaunchTemplateData={"InstanceType": "t3.large"},
        )
        self.refused(
            "UnknownParameter",
            self.ec2.create_launch_template,
            LaunchTemplateName=self.name + "-2",
            LaunchTemplateData={"HibernationOptions": {"Configured": True}},
        )
        self.refused("InvalidLaunchTemplateId.Malformed", self.ec2.delete_launch_template, LaunchTemplateId="lt-1")
        self.refused("MissingParameter", self.ec2.describe_launch_template_versions)


if __name__ == "__main__":
    unittest.main()
