"""boto3 clients of the cloud that the environment names (AWS_ENDPOINT_URL, keys, region).

A client reads over elements that it does not know, so a misspelt one would go unseen. Here every answer is held
against AWS's own model of the service as botocore ships it: names, enumerations, nesting.
"""

import json
import unittest
import xml.etree.ElementTree as ElementTree

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

PATIENT = {"Delay": 1, "MaxAttempts": 180}
FINDINGS = []


def client(service, validate=True, **overrides):
    """A client that tries once: an error is the test's to see."""
    config = Config(
        retries={"max_attempts": 0}, connect_timeout=5, read_timeout=60, parameter_validation=validate,
        # An address on loopback has no names below it.
        inject_host_prefix=False,
    )
    made = boto3.client(service, config=config, **overrides)
    made.meta.events.register("before-parse", hold_against_model)
    return made


def hold_against_model(operation_model, response_dict, **_):
    if response_dict["status_code"] >= 300 or not response_dict["body"]:
        return
    where = operation_model.name
    shape = operation_model.output_shape
    protocol = operation_model.service_model.metadata["protocol"]
    if protocol in ("ec2", "query"):
        root = ElementTree.fromstring(response_dict["body"])
        if local_name(root) != where + "Response":
            FINDINGS.append(f"{where}: the root element is {local_name(root)}")
        if protocol == "query" and shape is None:
            # Without an output there is no result, only the metadata.
            envelope = {"ResponseMetadata"}
            for child in root:
                if local_name(child) not in envelope:
                    FINDINGS.append(f"{where}: {local_name(child)} is not in the model")
            return
        if protocol == "query":
            root = root.find("{*}" + (shape.serialization.get("resultWrapper") or where + "Result"))
        envelope = {"requestId"} if shape is not None and shape.members else {"requestId", "return"}
        hold_xml(where, shape, root, envelope)
    elif protocol == "rest-xml":
        hold_rest_xml(where, shape, response_dict["body"])
    else:
        hold_json(where, shape, json.loads(response_dict["body"]))


def hold_rest_xml(where, shape, body):
    """The members that are in the body: what is in headers the client reads by itself."""
    payload = shape.serialization.get("payload")
    if payload is not None and shape.members[payload].type_name == "blob":
        return
    members = {
        member.serialization.get("name", name): member
        for name, member in shape.members.items()
        if "location" not in member.serialization
    }
    hold_members(where, members, ElementTree.fromstring(body), frozenset())


def local_name(node):
    return node.tag.rpartition("}")[2]


def hold_xml(where, shape, node, envelope=frozenset()):
    kind = shape.type_name if shape is not None else "structure"
    if kind == "structure":
        members = shape.members if shape is not None else {}
        known = {member.serialization.get("name", name): member for name, member in members.items()}
        hold_members(where, known, node, envelope)
    elif kind == "list":
        item = shape.member.serialization.get("name", "member")
        for child in node:
            if local_name(child) != item:
                FINDINGS.append(f"{where}: a list of {item} holds {local_name(child)}")
            hold_xml(f"{where}[]", shape.member, child)
    else:
        hold_scalar(where, shape, node.text or "")


def hold_members(where, known, node, envelope):
    # A flattened list has no element of its own: its items bear its name, or theirs.
    flat = {name: member for name, member in known.items() if member.serialization.get("flattened")}
    seen = set()
    for child in node:
        name = local_name(child)
        if name in flat:
            hold_xml(f"{where}.{name}[]", flat[name].member, child)
            continue
        if name in seen:
            FINDINGS.append(f"{where}.{name}: given twice")
        seen.add(name)
        if name in known:
            hold_xml(f"{where}.{name}", known[name], child)
        elif name not in envelope:
            FINDINGS.append(f"{where}.{name}: not in the model")


def hold_json(where, shape, value):
    kind = shape.type_name if shape is not None else "structure"
    if kind == "structure":
        for name, member in value.items():
            if shape is None or name not in shape.members:
                FINDINGS.append(f"{where}.{name}: not in the model")
            elif member is None:
                FINDINGS.append(f"{where}.{name}: null")
            else:
                hold_json(f"{where}.{name}", shape.members[name], member)
    elif kind == "list":
        for item in value:
            hold_json(f"{where}[]", shape.member, item)
    elif kind == "map":
        for key, item in value.items():
            hold_json(f"{where}.{key}", shape.value, item)
    else:
        expected = {
            "string": str,
            "boolean": bool,
            "integer": int,
            "long": int,
            "timestamp": (int, float),
        }.get(kind, object)
        if not isinstance(value, expected):
            FINDINGS.append(f"{where}: {value!r} is no {kind}")
        hold_scalar(where, shape, value)


def hold_scalar(where, shape, value):
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        FINDINGS.append(f"{where}: {value!r} is not one of {', '.join(allowed[:12])}")
    if shape.type_name == "boolean" and value not in ("true", "false", True, False):
        FINDINGS.append(f"{where}: {value!r} is no boolean")


class Case(unittest.TestCase):
    """A test that ends with every answer it had held against the model."""

    def setUp(self):
        FINDINGS.clear()

    def tearDown(self):
        self.assertEqual(sorted(set(FINDINGS)), [])

    def refused(self, code, call, **arguments):
        """The call must fail with this error code; gives the error."""
        try:
            call(**arguments)
        except ClientError as error:
            self.assertEqual(error.response["Error"]["Code"], code, error)
            return error.response
        return self.fail(f"{code} was expected, the call succeeded")
