"""Every operation of the local cloud, driven by inputs made from AWS's own service models (botocore): the smallest input,
each further parameter, wrong values, left-out ones, dry runs; by boto3 and by the AWS CLI, in this process.

An answer must parse strictly. An error must have a code that AWS documents, and one about a parameter must name it: what
the local cloud does not know it refuses, it never ignores it. Operations that it does not have are counted as gaps.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import tempfile
import unittest

import botocore.session
from awscli.clidriver import create_clidriver
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    MissingDependencyException,
    ParamValidationError,
)
from fixtures import Fixtures, Names
from models import Maker, members, wrong_values
from wire import FINDINGS, Case, client

SERVICES = ("autoscaling", "ec2", "imagebuilder", "s3", "secretsmanager", "ssm", "sts")
# Refusals of what the local cloud does not have. Operations without a signature get no further than that.
ABSENT = {"InvalidAction", "UnknownOperationException", "MissingAuthenticationToken", "NotImplemented"}
# The code of S3 for what it does not act on, operations and parameters; its status is 501.
NOT_IMPLEMENTED = {("NotImplemented", 501), ("501", 501)}
# Error codes that every operation may give: the "Common Errors" of the API references, and for EC2, whose model lists
# none, https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
COMMON = {
    "autoscaling": {"ValidationError"},
    "secretsmanager": {"ValidationException"},
    "ssm": {"ValidationException"},
    "sts": {"AccessDenied", "ValidationError"},
    # Its model lists no code for an image that does not exist; the service gives this one.
    "imagebuilder": {"ResourceNotFoundException", "ValidationException"},
    # Its model lists few of its codes: "Error responses", https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
    # A HEAD has no body, and botocore makes a code of the status.
    "s3": {
        "AccessDenied", "AuthorizationHeaderMalformed", "BadDigest", "BucketNotEmpty", "EntityTooSmall",
        "IllegalLocationConstraintException", "InvalidArgument", "InvalidBucketName", "InvalidBucketOwnerAWSAccountID",
        "InvalidDigest", "InvalidLocationConstraint", "InvalidPart", "InvalidPartOrder", "InvalidRange", "InvalidRequest",
        "InvalidStorageClass", "InvalidURI", "KeyTooLongError", "MalformedXML", "MethodNotAllowed", "MissingContentLength",
        "NoSuchBucket", "NoSuchKey", "NoSuchUpload", "NotImplemented", "PreconditionFailed", "304", "400", "403", "404",
        "412", "416", "501",
    },
    "ec2": {
        "DryRunOperation", "InvalidParameter", "InvalidParameterCombination", "InvalidParameterValue", "MissingParameter",
        "UnknownParameter", "Unsupported", "UnsupportedOperation", "IdempotentParameterMismatch",
        "InvalidAMIID.Malformed", "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidAMIName.Duplicate",
        "InvalidAMIName.Malformed", "InvalidGroup.Duplicate", "InvalidGroup.InUse", "InvalidGroup.NotFound",
        "InvalidGroupId.Malformed", "InvalidID", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound",
        "IncorrectInstanceState", "InvalidInstanceType", "InvalidKeyPair.NotFound", "InvalidLaunchTemplateId.Malformed",
        "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.VersionNotFound",
        "InvalidLaunchTemplateName.AlreadyExistsException", "InvalidLaunchTemplateName.MalformedException",
        "InvalidLaunchTemplateName.NotFoundException", "InvalidNextToken", "InvalidPaginationToken",
        "InvalidSnapshot.InUse", "InvalidSnapshot.NotFound", "InvalidSnapshotID.Malformed", "InvalidSubnetID.NotFound",
        "InvalidVolume.NotFound", "InvalidVolumeID.Malformed", "InvalidVpcID.NotFound", "InvalidTagKey.Malformed",
        "InvalidUserData.Malformed", "InvalidBlockDeviceMapping", "OperationNotPermitted", "TagLimitExceeded",
        "DefaultVersionCannotBeDeleted", "UnsupportedHibernationConfiguration", "InvalidSpotInstanceRequestID.Malformed",
        "InvalidSpotInstanceRequestID.NotFound",
    },
}
# What the client itself cannot write down: it has no shape on the wire, or botocore lacks what computes it.
UNWRITABLE = (
    ParamValidationError, FlexibleChecksumError, MissingDependencyException, KeyError, TypeError, ValueError,
)


class RefusedByClient(Exception):
    """The client itself does not send it."""


class Cli:
    """The AWS CLI in this process, asked as a client of boto3 is."""

    FAILED = re.compile(r"An error occurred \((\S+)\) when calling the \w+ operation(?: \(reached max retries: \d+\))?: (.*)", re.DOTALL)

    def __init__(self):
        self.driver = create_clidriver()
        self.body = str(pathlib.Path(tempfile.mkdtemp()) / "body")

    def __call__(self, operation, asked):
        """The error's code, the status, its message, and the answer."""
        service, verb = operation.service_model.service_name, botocore.xform_name(operation.name, "-")
        out, err = io.StringIO(), io.StringIO()
        asked = dict(asked)
        arguments = [{"s3": "s3api"}.get(service, service), verb, "--output", "json"]
        stream = operation.get_streaming_input()
        if stream is not None and isinstance(asked.get(stream.name), bytes):
            # What is streamed, the CLI has in files.
            pathlib.Path(self.body).write_bytes(asked.pop(stream.name))
            arguments += ["--" + botocore.xform_name(stream.name, "-"), self.body]
        if operation.has_streaming_output:
            # With an argument for its file, the CLI wants the others too.
            for name, value in asked.items():
                arguments += ["--" + botocore.xform_name(name, "-"), str(value)]
            arguments.append(os.devnull)
        else:
            arguments += ["--cli-input-json", json.dumps(asked, default=bytes.decode)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = self.driver.main(arguments)
            except SystemExit as end:
                code = end.code
        if code == 0:
            return None, 200, "", json.loads(out.getvalue() or "{}")
        found = self.FAILED.search(err.getvalue())
        if not found:
            raise RefusedByClient(err.getvalue().strip()[:300])
        # It does not say the status; these codes are those of a service that failed.
        status = 500 if found[1].startswith(("Internal", "ServiceUnavailable")) else 400
        return found[1], status, found[2].strip(), {}


class Conformance(Case):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.fixtures = Fixtures()
        cls.session = botocore.session.get_session()
        # One answer is enough: an error is the test's to see.
        os.environ["AWS_MAX_ATTEMPTS"] = "1"
        cls.driver = Cli()
        cls.cases, cls.gaps, cls.had = 0, {}, {}

    @classmethod
    def tearDownClass(cls):
        had = ", ".join(f"{service} {len(names)}" for service, names in sorted(cls.had.items()))
        gaps = ", ".join(f"{service} {count}" for service, count in sorted(cls.gaps.items()))
        print(f"conformance: {cls.cases} cases; operations that the local cloud has: {had}; that it has not: {gaps}")

    def operations(self, service):
        """The operations of a service that the local cloud has, found by asking for each."""
        if service not in self.had:
            model = self.session.get_service_model(service)
            asker = client(service, validate=False)
            had = []
            for name in model.operation_names:
                operation = model.operation_model(name)
                # Paths of REST services hold members, so some text must be there.
                asked = Maker(lambda *_: None).smallest(name, operation.input_shape, "")
                code, status, _ = self.call(asker, operation, asked)
                if code not in ABSENT and status != 501:
                    had.append(name)
            self.had[service] = had
            self.gaps[service] = len(model.operation_names) - len(had)
        model = self.session.get_service_model(service)
        return [model.operation_model(name) for name in self.had[service]]

    def call(self, asker, operation, arguments):
        """The error's code, the status, and its message; no code if all went well."""
        if isinstance(asker, Cli):
            code, status, message, answer = asker(operation, arguments)
        else:
            code, status, message, answer = self.call_boto3(asker, operation, arguments)
        type(self).cases += 1
        if code is None and operation.name == "RunInstances":
            for one in answer["Instances"]:
                self.fixtures.remove("instance", one["InstanceId"])
        return code, status, message

    def call_boto3(self, asker, operation, arguments):
        method = botocore.xform_name(operation.name)
        try:
            answer = getattr(asker, method)(**arguments)
        except ClientError as error:
            response = error.response
            return (
                response["Error"]["Code"],
                response["ResponseMetadata"]["HTTPStatusCode"],
                response["Error"].get("Message", ""),
                {},
            )
        except UNWRITABLE as error:
            raise RefusedByClient(error) from error
        return None, answer["ResponseMetadata"]["HTTPStatusCode"], "", answer

    def judge(self, operation, what, answer):
        """What is wrong with an answer, whatever was asked."""
        service = operation.service_model.service_name
        code, status, message = answer
        if status >= 500 and (code, status) not in NOT_IMPLEMENTED:
            return f"{operation.name} {what}: {status} {code}: {message}"
        if code is None:
            return None
        listed = {shape.metadata.get("error", {}).get("code", shape.name) for shape in operation.error_shapes}
        listed |= {shape.name for shape in operation.error_shapes}
        if code not in listed | COMMON[service]:
            return f"{operation.name} {what}: the code {code} is not one that AWS lists for it ({message})"
        return None

    @contextlib.contextmanager
    def smallest(self, operation):
        """A maker of inputs, and the smallest one; what was made for it is gone afterwards."""
        names = Names(self.fixtures, operation.service_model.service_name, operation.name)
        make = Maker(names)
        asked = make.smallest(operation.name, operation.input_shape, operation.name)
        try:
            yield make, asked
        finally:
            names.clean()
            if operation.name == "CreateAutoScalingGroup" and "AutoScalingGroupName" in asked:
                self.fixtures.remove("group", [asked["AutoScalingGroupName"]])

    def fail_with(self, wrong):
        self.assertEqual(wrong, [], f"{len(wrong)} findings")

    def test_the_smallest_inputs_are_accepted(self):
        wrong = []
        for service in SERVICES:
            asker = client(service, validate=False)
            for operation in self.operations(service):
                with self.smallest(operation) as (_, asked):
                    code, status, message = answer = self.call(asker, operation, asked)
                expected = EXPECTED.get(operation.name)
                if code != expected:
                    wrong.append(f"{operation.name} {asked}: {status} {code}: {message}")
                wrong += filter(None, [self.judge(operation, "smallest", answer)])
        self.fail_with(wrong)

    def further(self, asker_of):
        """Findings of one more parameter each; `asker_of` makes a client of a service."""
        for service in SERVICES:
            asker = asker_of(service)
            for operation in self.operations(service):
                for name, member in members(operation.input_shape).items():
                    if name == "DryRun":
                        continue
                    # How a client writes a structure down is seen from the whole one.
                    inner = parts(member) if asker is not self.driver else []
                    for part in range(1 + len(inner)):
                        with self.smallest(operation) as (make, asked):
                            if name in asked:
                                break
                            if part == 0:
                                asked[name] = make.value(operation.name, name, member)
                            else:
                                asked[name] = with_part(make, operation.name, member, inner[part - 1])
                            try:
                                answer = self.call(asker, operation, asked)
                            except RefusedByClient as error:
                                yield f"{operation.name} with {name}={short(asked[name])}: the client refuses: {error}"
                                continue
                        code, _, message = answer
                        found = self.judge(operation, f"with {name}", answer)
                        expected = code in (None, EXPECTED.get(operation.name), *TOKENS)
                        # The answer to a HEAD has no body to name anything in, and conditions are known by their codes.
                        expected = expected or operation.http["method"] == "HEAD"
                        expected = expected or (name.startswith("If") and code in CONDITIONS)
                        if found is None and not expected and not names_it(message, name, member, asked[name]):
                            found = f"{operation.name} with {name}={short(asked[name])}: does not name it: {code}: {message}"
                        yield from filter(None, [found])

    def maximal(self, asker_of):
        """Findings of inputs with all their parameters at once."""
        for service in SERVICES:
            asker = asker_of(service)
            for operation in self.operations(service):
                with self.smallest(operation) as (make, asked):
                    for name, member in members(operation.input_shape).items():
                        if name not in asked and name != "DryRun":
                            asked[name] = make.value(operation.name, name, member)
                    code, _, message = answer = self.call(asker, operation, asked)
                found = self.judge(operation, "with all", answer)
                shapes = members(operation.input_shape).items()
                named = any(names_it(message, name, shape, asked.get(name)) for name, shape in shapes)
                # S3 has one message for two checksums at once; the answer to a HEAD has no body.
                named = named or "x-amz-checksum-" in message or operation.http["method"] == "HEAD"
                if found is None and code not in (None, EXPECTED.get(operation.name), *TOKENS) and not named:
                    found = f"{operation.name} with all: names none of them: {code}: {message}"
                yield from filter(None, [found])

    def wrong(self, asker_of):
        """Findings of values that the model forbids."""
        for service in SERVICES:
            asker = asker_of(service)
            for operation in self.operations(service):
                for name, member in members(operation.input_shape).items():
                    shape = member.member if member.type_name == "list" else member
                    if (operation.name, name) in NOT_MISSED:
                        continue
                    for why, value in wrong_values(shape, service in ("secretsmanager", "ssm", "imagebuilder")):
                        with self.smallest(operation) as (_, asked):
                            asked[name] = [value] if member.type_name == "list" else value
                            try:
                                answer = self.call(asker, operation, asked)
                            except RefusedByClient:
                                continue
                        found = self.judge(operation, f"{name} {why}", answer)
                        if answer[0] is None:
                            found = f"{operation.name} {name}={short(value)}: {why}, and accepted"
                        yield from filter(None, [found])

    def missed(self, asker_of):
        """Findings of inputs without something that is required."""
        for service in SERVICES:
            asker = asker_of(service)
            for operation in self.operations(service):
                for name in getattr(operation.input_shape, "required_members", ()):
                    if (operation.name, name) in NOT_MISSED or operation.input_shape.members[name].metadata.get("idempotencyToken"):
                        # Clients make the token up.
                        continue
                    if asker is self.driver and (operation.name, name) in MADE_UP_BY_THE_CLI:
                        continue
                    with self.smallest(operation) as (_, asked):
                        kept = asked.pop(name)
                        try:
                            answer = self.call(asker, operation, asked)
                        except RefusedByClient:
                            answer = ("refused by the client", 400, "")
                        asked[name] = kept
                    found = None
                    if answer[0] is None:
                        found = f"{operation.name} without {name}: accepted"
                    elif answer[0] != "refused by the client":
                        found = self.judge(operation, f"without {name}", answer)
                    yield from filter(None, [found])

    def boto3(self, service):
        return client(service, validate=False)

    def cli(self, _):
        return self.driver

    def test_each_further_parameter_is_honoured_or_refused_by_name(self):
        self.fail_with(list(self.further(self.boto3)))

    def test_wrong_values_are_refused(self):
        self.fail_with(list(self.wrong(self.boto3)))

    def test_what_is_required_is_missed(self):
        self.fail_with(list(self.missed(self.boto3)))

    def test_all_parameters_at_once(self):
        self.fail_with(list(self.maximal(self.boto3)))

    def test_the_aws_cli_writes_all_parameters_at_once(self):
        self.fail_with(list(self.maximal(self.cli)))

    def test_the_aws_cli_writes_each_further_parameter(self):
        self.fail_with(list(self.further(self.cli)))

    def test_the_aws_cli_writes_wrong_values(self):
        self.fail_with(list(self.wrong(self.cli)))

    def test_the_aws_cli_leaves_out_what_is_required(self):
        self.fail_with(list(self.missed(self.cli)))

    def test_dry_runs_change_nothing(self):
        wrong = []
        asker = client("ec2", validate=False)
        for operation in self.operations("ec2"):
            if "DryRun" not in members(operation.input_shape):
                continue
            with self.smallest(operation) as (_, asked):
                code, status, message = self.call(asker, operation, {**asked, "DryRun": True})
            if (code, status) != ("DryRunOperation", 412):
                wrong.append(f"{operation.name}: {status} {code}: {message}")
        self.fail_with(wrong)

    def test_the_aws_cli_drives_every_operation(self):
        wrong = []
        for service in SERVICES:
            for operation in self.operations(service):
                with self.smallest(operation) as (_, asked):
                    code, _, message = answer = self.call(self.driver, operation, asked)
                if code != EXPECTED.get(operation.name):
                    wrong.append(f"aws {service} {operation.name}: {code} {message}")
                wrong += filter(None, [self.judge(operation, "smallest", answer)])
        self.fail_with(wrong)


# The query protocol writes an empty structure as nothing, and a version may differ in nothing from its source.
NOT_MISSED = {
    ("CreateLaunchTemplateVersion", "LaunchTemplateData"),
    # Without these it is a request for HeadBucket, or DeleteObject.
    ("HeadObject", "Key"),
    ("AbortMultipartUpload", "UploadId"),
}
# What a condition that does not hold gives.
CONDITIONS = ("PreconditionFailed", "NoSuchKey", "304", "412")
# `aws ec2 run-instances` launches one without a --count.
MADE_UP_BY_THE_CLI = {("RunInstances", "MinCount"), ("RunInstances", "MaxCount")}
# These codes are names themselves.
TOKENS = ("InvalidNextToken", "InvalidPaginationToken", "InvalidPaginationTokenException")
# What the smallest input meets where nothing is prepared for it.
EXPECTED = {
    "CancelInstanceRefresh": "ActiveInstanceRefreshNotFound",
    "RollbackInstanceRefresh": "ActiveInstanceRefreshNotFound",
    "DeleteAutoScalingGroup": "ResourceInUse",
    "GetImage": "ResourceNotFoundException",
    "ExitStandby": "ValidationError",
    "CompleteLifecycleAction": "ValidationError",
    "RecordLifecycleActionHeartbeat": "ValidationError",
}


def parts(shape):
    """The members of a structure, or of a list of them."""
    inner = shape.member if shape.type_name == "list" else shape
    return list(inner.members) if inner.type_name == "structure" else []


def with_part(make, operation, shape, part):
    """A structure, or a list of one, with what it requires and one more member."""
    inner = shape.member if shape.type_name == "list" else shape
    one = make.smallest(operation, inner, "")
    one[part] = make.value(operation, part, inner.members[part], 2)
    return [one] if shape.type_name == "list" else one


def inside(value):
    """All names of members in a value, and its texts."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from inside(item)
    elif isinstance(value, list):
        for item in value:
            yield from inside(item)
    elif isinstance(value, str) and len(value) > 4:
        yield value


def names_it(message, name, shape, value):
    """Whether a message names a parameter, something in it, or its value."""
    inner = shape.member if shape.type_name == "list" else shape
    words = {name, shape.serialization.get("name", name), *inside(value), *getattr(inner, "members", ())}
    words |= {word.removesuffix("s") for word in words} | {word.removesuffix("List") for word in words}
    # LaunchTemplateId is "launch template ID" in a sentence.
    words |= {re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word) for word in words}
    text = message.lower()
    return any(word.lower() in text for word in words if len(word) > 2)


def short(value):
    text = json.dumps(value, default=str)
    return text if len(text) < 120 else text[:117] + "..."


if __name__ == "__main__":
    os.environ.setdefault("AWS_PAGER", "")
    unittest.main()
