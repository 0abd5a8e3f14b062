"""Secrets Manager: versions and stages, tokens, and the way out of a deletion."""

import unittest

from wire import Case, client


class Secrets(Case):
    def setUp(self):
        super().setUp()
        self.secrets = client("secretsmanager")

    def value(self, secret, **asked):
        return self.secrets.get_secret_value(SecretId=secret, **asked)["SecretString"]

    def test_a_secret_is_found_by_its_name_and_its_arn_whole_or_not(self):
        made = self.secrets.create_secret(
            Name="team/token", Description="Of a test", SecretString="one", Tags=[{"Key": "team", "Value": "ci"}]
        )
        arn = made["ARN"]
        self.assertRegex(arn, r"^arn:aws:secretsmanager:eu-central-1:\d{12}:secret:team/token-[0-9a-zA-Z]{6}$")
        for name in ("team/token", arn, arn[:-7]):
            self.assertEqual(self.value(name), "one")
        described = self.secrets.describe_secret(SecretId=arn)
        self.assertEqual((described["Name"], described["Description"]), ("team/token", "Of a test"))
        self.assertEqual(described["Tags"], [{"Key": "team", "Value": "ci"}])
        self.assertEqual(described["VersionIdsToStages"], {made["VersionId"]: ["AWSCURRENT"]})
        self.refused("ResourceExistsException", self.secrets.create_secret, Name="team/token", SecretString="two")
        elsewhere = client("secretsmanager", region_name="eu-west-1")
        self.refused("ResourceNotFoundException", elsewhere.get_secret_value, SecretId=arn)

    def test_versions_follow_each_other(self):
        first = self.secrets.create_secret(Name="versions", SecretString="one")["VersionId"]
        second = self.secrets.put_secret_value(SecretId="versions", SecretString="two")["VersionId"]
        self.assertEqual(self.value("versions"), "two")
        self.assertEqual(self.value("versions", VersionStage="AWSPREVIOUS"), "one")
        self.assertEqual(self.value("versions", VersionId=first), "one")
        self.assertEqual(self.value("versions", VersionId=second, VersionStage="AWSCURRENT"), "two")
        get = self.secrets.get_secret_value
        self.refused("InvalidRequestException", get, SecretId="versions", VersionId=first, VersionStage="AWSCURRENT")
        self.refused("ResourceNotFoundException", get, SecretId="versions", VersionStage="NONE")
        self.secrets.put_secret_value(SecretId="versions", SecretString="three")
        self.refused("ResourceNotFoundException", get, SecretId="versions", VersionId=first)

    def test_a_request_that_comes_twice_is_answered_twice_and_done_once(self):
        token = "0123456789abcdef" * 2
        asked = {"Name": "twice", "SecretString": "one", "ClientRequestToken": token}
        self.assertEqual(self.secrets.create_secret(**asked)["ARN"], self.secrets.create_secret(**asked)["ARN"])
        put = {"SecretId": "twice", "SecretString": "two", "ClientRequestToken": token[::-1]}
        self.assertEqual(
            self.secrets.put_secret_value(**put)["VersionStages"], self.secrets.put_secret_value(**put)["VersionStages"]
        )
        self.assertEqual(len(self.secrets.describe_secret(SecretId="twice")["VersionIdsToStages"]), 2)
        self.refused("ResourceExistsException", self.secrets.put_secret_value, **{**put, "SecretString": "three"})

    def test_bytes_come_back_as_they_were(self):
        content = bytes(range(256))
        self.secrets.create_secret(Name="bytes", SecretBinary=content)
        self.assertEqual(self.secrets.get_secret_value(SecretId="bytes")["SecretBinary"], content)
        self.assertIn("SecretBinary", self.refused(
            "InvalidParameterException", self.secrets.put_secret_value,
            SecretId="bytes", SecretString="text", SecretBinary=content,
        )["Error"]["Message"])

    def test_a_deleted_secret_can_be_had_back_until_it_is_gone(self):
        self.secrets.create_secret(Name="deleted", SecretString="one")
        self.refused(
            "InvalidParameterException", self.secrets.delete_secret, SecretId="deleted", RecoveryWindowInDays=6
        )
        self.secrets.delete_secret(SecretId="deleted", RecoveryWindowInDays=7)
        self.assertIn("DeletedDate", self.secrets.describe_secret(SecretId="deleted"))
        for call, asked in (
            (self.secrets.get_secret_value, {"SecretId": "deleted"}),
            (self.secrets.put_secret_value, {"SecretId": "deleted", "SecretString": "two"}),
            (self.secrets.delete_secret, {"SecretId": "deleted"}),
            (self.secrets.create_secret, {"Name": "deleted", "SecretString": "two"}),
        ):
            self.refused("InvalidRequestException", call, **asked)
        self.secrets.restore_secret(SecretId="deleted")
        self.assertEqual(self.value("deleted"), "one")
        self.secrets.delete_secret(SecretId="deleted", ForceDeleteWithoutRecovery=True)
        self.refused("ResourceNotFoundException", self.secrets.describe_secret, SecretId="deleted")
        # Once more is no error.
        self.secrets.delete_secret(SecretId="deleted", ForceDeleteWithoutRecovery=True)

    def test_what_is_not_here_is_refused_by_name(self):
        for name, value in (
            ("KmsKeyId", "alias/mine"),
            ("AddReplicaRegions", [{"Region": "eu-west-1"}]),
        ):
            answer = self.refused(
                "InvalidParameterException" if name == "KmsKeyId" else "ValidationException",
                self.secrets.create_secret, Name="refused", SecretString="one", **{name: value},
            )
            self.assertIn(name, answer["Error"]["Message"])
        self.refused("ValidationException", self.secrets.create_secret, Name="no name", SecretString="one")


if __name__ == "__main__":
    unittest.main()
