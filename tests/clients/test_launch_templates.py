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
