"""Roles that callers take: sessions, chains of them, and keys that go with no token but their own."""

import os
import unittest
from datetime import datetime, timedelta, timezone

from wire import Case, client

ACCOUNT = "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/ci/deploy"
BASE = "/aws/service/debian/release/12/latest/amd64"

OWN = {name: os.environ[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}


def keys(answer, **changed):
    found = {**answer["Credentials"], **changed}
    return {
        "aws_access_key_id": found["AccessKeyId"],
        "aws_secret_access_key": found["SecretAccessKey"],
        "aws_session_token": found["SessionToken"],
    }


class Roles(Case):
    def assume(self, by=None, **more):
        return client("sts", **(by or {})).assume_role(**{"RoleArn": ROLE, "RoleSessionName": "night", **more})

    def denied(self, code, by=None, **more):
        asked = {"RoleArn": ROLE, "RoleSessionName": "night", **more}
        sts = client("sts", validate=False, **(by or {}))
        return self.refused(code, sts.assume_role, **asked)["Error"]["Message"]

    def test_a_session_calls_every_service_as_the_role(self):
        answer = self.assume(DurationSeconds=900, ExternalId="outside", SourceIdentity="somebody")
        arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/deploy/night"
        self.assertEqual(answer["AssumedRoleUser"]["Arn"], arn)
        self.assertEqual(answer["SourceIdentity"], "somebody")
        self.assertTrue(answer["Credentials"]["AccessKeyId"].startswith("ASIA"))
        left = answer["Credentials"]["Expiration"] - datetime.now(timezone.utc)
        self.assertTrue(timedelta(seconds=870) < left <= timedelta(seconds=901), left)
        own = keys(answer)
        identity = client("sts", **own).get_caller_identity()
        self.assertEqual((identity["Arn"], identity["Account"]), (arn, ACCOUNT))
        self.assertEqual(identity["UserId"], answer["AssumedRoleUser"]["AssumedRoleId"])
        self.assertTrue(identity["UserId"].startswith("AROA") and identity["UserId"].endswith(":night"))
        client("ec2", **own).describe_instances()
        client("ssm", **own).get_parameter(Name=BASE)
        client("autoscaling", **own).describe_auto_scaling_groups()
        self.refused("ResourceNotFoundException", client("secretsmanager", **own).get_secret_value, SecretId="nothing")
        client("imagebuilder", **own).list_images()
        client("s3", **own).list_buckets()
        self.assertNotEqual(self.assume()["Credentials"], self.assume()["Credentials"])

    def test_keys_go_with_their_own_token_alone(self):
        one, other = self.assume(), self.assume()
        token = other["Credentials"]["SessionToken"]
        forged = one["Credentials"]["SessionToken"][::-1]
        for wrong in (
            keys(one, SessionToken=token), keys(one, SessionToken=forged), keys(one, SessionToken=None),
            {**OWN, "aws_session_token": token},
        ):
            self.refused("AuthFailure", client("ec2", **wrong).describe_instances)
            self.refused("InvalidClientTokenId", client("sts", **wrong).get_caller_identity)
            self.refused("UnrecognizedClientException", client("ssm", **wrong).get_parameter, Name=BASE)
            without = wrong.get("aws_session_token") is None
            code = "InvalidAccessKeyId" if without else "InvalidToken"
            self.refused(code, client("s3", **wrong).list_buckets)
        wrong = keys(one, SecretAccessKey=other["Credentials"]["SecretAccessKey"])
        self.refused("SignatureDoesNotMatch", client("sts", **wrong).get_caller_identity)

    def test_a_chain_of_roles(self):
        tags = [{"Key": "team", "Value": "ci"}, {"Key": "run", "Value": "7"}]
        first = keys(self.assume(Tags=tags, TransitiveTagKeys=["team"], SourceIdentity="somebody"))
        second = self.assume(first, RoleSessionName="second", DurationSeconds=3600, Tags=tags[1:])
        self.assertTrue(second["AssumedRoleUser"]["Arn"].endswith("/second"))
        self.assertEqual(second["SourceIdentity"], "somebody")
        self.assertIn("role chaining", self.denied("ValidationError", first, DurationSeconds=3601))
        self.assertIn("Team", self.denied("ValidationError", first, Tags=[{"Key": "Team", "Value": "x"}]))
        self.assertIn("somebody", self.denied("AccessDenied", first, SourceIdentity="another"))
        self.assertIn("team", self.denied("ValidationError", keys(second), Tags=tags))

    def test_what_may_not_be_taken(self):
        said = self.denied("AccessDenied", RoleArn="arn:aws:iam::123456789012:role/deploy")
        self.assertEqual(
            said,
            f"User: arn:aws:iam::{ACCOUNT}:user/local is not authorized to perform: sts:AssumeRole on resource: "
            "arn:aws:iam::123456789012:role/deploy",
        )
        for arn in (f"arn:aws:iam::{ACCOUNT}:user/deploy", f"arn:aws:iam::{ACCOUNT}:role/", "arn:aws:iam::12:role/deploy"):
            self.assertEqual(self.denied("ValidationError", RoleArn=arn), f"{arn} is invalid")
        self.assertIn("roleSessionName", self.denied("ValidationError", RoleSessionName="two words"))
        twice = [{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}]
        self.assertIn("Duplicate", self.denied("ValidationError", Tags=twice))
        many = [{"Key": f"k{number}", "Value": ""} for number in range(51)]
        self.assertIn("tags", self.denied("ValidationError", Tags=many))
        self.denied("ValidationError", TransitiveTagKeys=["nobody"])
        self.denied("ValidationError", Policy="{}")
        self.denied("AccessDenied", SerialNumber=f"arn:aws:iam::{ACCOUNT}:mfa/somebody", TokenCode="123456")


if __name__ == "__main__":
    unittest.main()
