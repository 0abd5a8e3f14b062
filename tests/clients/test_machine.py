"""List, launch, run a command on and terminate a machine, as boto3 does it."""

import time
import unittest

from wire import PATIENT, Case, client

BASE = "/aws/service/debian/release/12/latest/amd64"


class Machine(Case):
    def test_list_launch_run_and_terminate(self):
        ec2, ssm, sts = client("ec2"), client("ssm"), client("sts")
        self.assertRegex(sts.get_caller_identity()["Account"], r"^\d{12}$")
        base = ssm.get_parameter(Name=BASE)["Parameter"]["Value"]
        images = ec2.describe_images(ImageIds=[base])["Images"]
        self.assertEqual([image["State"] for image in images], ["available"])

        instance = ec2.run_instances(
            ImageId=base,
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            InstanceInitiatedShutdownBehavior="terminate",
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "a client's"}]},
                {"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "a client's"}]},
            ],
        )["Instances"][0]["InstanceId"]
        try:
            ec2.get_waiter("instance_running").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
            self.assertEqual(listed(ec2, instance)["State"]["Name"], "running")
            self.wait_for_agent(ssm, instance)
            self.run_command(ssm, instance)
            self.put_output_into_a_bucket(ssm, instance)
        finally:
            ec2.terminate_instances(InstanceIds=[instance])
        ec2.get_waiter("instance_terminated").wait(InstanceIds=[instance], WaiterConfig=PATIENT)
        self.assertEqual(listed(ec2, instance)["State"]["Name"], "terminated")
        volumes = ec2.describe_volumes(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance]}]
        )["Volumes"]
        self.assertEqual(volumes, [])

    def wait_for_agent(self, ssm, instance):
        filters = [{"Key": "InstanceIds", "Values": [instance]}]
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            known = ssm.describe_instance_information(Filters=filters)["InstanceInformationList"]
            if [entry["PingStatus"] for entry in known] == ["Online"]:
                return
            time.sleep(0.2)
        self.fail(f"the agent of {instance} does not come online")

    def run_command(self, ssm, instance):
        # Not `echo`: the text must come from a shell, not from the command's own words.
        command = ssm.send_command(
            InstanceIds=[instance],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["printf '%s\\n' $((6 * 7))", "echo oops >&2", "exit 3"]},
        )["Command"]
        self.assertEqual(command["Status"], "Pending")
        ids = {"CommandId": command["CommandId"], "InstanceId": instance}
        result = self.finished(ssm, ids)
        self.assertEqual(
            (result["Status"], result["StatusDetails"], result["ResponseCode"]), ("Failed", "Failed", 3)
        )
        self.assertEqual(result["StandardOutputContent"], "42\n")
        self.assertIn("oops\n", result["StandardErrorContent"])

    def put_output_into_a_bucket(self, ssm, instance):
        """The whole output, where an answer has its first 24,000 characters; nothing of what is empty."""
        s3, bucket = client("s3"), f"output-{instance}"
        region = s3.meta.region_name
        place = {"LocationConstraint": region}
        made = {} if region == "us-east-1" else {"CreateBucketConfiguration": place}
        command = {
            "InstanceIds": [instance], "DocumentName": "AWS-RunShellScript",
            "Parameters": {"commands": ["seq 1 20000"]}, "OutputS3BucketName": bucket, "OutputS3KeyPrefix": "of/mine/",
        }
        self.refused("InvalidOutputFolder", ssm.send_command, **command)
        s3.create_bucket(Bucket=bucket, **made)
        sent = ssm.send_command(**command)["Command"]
        self.assertEqual((sent["OutputS3BucketName"], sent["OutputS3Region"]), (bucket, region))
        ids = {"CommandId": sent["CommandId"], "InstanceId": instance}
        result = self.finished(ssm, ids)
        self.assertEqual((result["Status"], len(result["StandardOutputContent"])), ("Success", 24_000))
        key = f"of/mine/{sent['CommandId']}/{instance}/awsrunShellScript/0.awsrunShellScript/stdout"
        self.assertEqual(result["StandardOutputUrl"], f"https://s3.{region}.amazonaws.com/{bucket}/{key}")
        self.assertTrue(result["StandardErrorUrl"].endswith("/stderr"))
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]]
        self.assertEqual(keys, [key])
        whole = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        self.assertEqual(whole, "".join(f"{number}\n" for number in range(1, 20_001)))
        [listed_one] = ssm.list_command_invocations(**ids, Details=True)["CommandInvocations"]
        self.assertEqual(listed_one["CommandPlugins"][0]["StandardOutputUrl"], result["StandardOutputUrl"])
        s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)

    def finished(self, ssm, ids):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                result = ssm.get_command_invocation(**ids)
            except ssm.exceptions.InvocationDoesNotExist:
                # Documented just after sending.
                time.sleep(0.1)
                continue
            if result["Status"] not in ("Pending", "InProgress", "Delayed"):
                return result
            self.assertEqual(result["StandardOutputContent"], "")
            time.sleep(0.1)
        return self.fail(f"{ids} does not end")


def listed(ec2, instance):
    [reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    return reservation["Instances"][0]


if __name__ == "__main__":
    unittest.main()
