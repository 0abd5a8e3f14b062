"""Inputs made from botocore's service models: the smallest, one more member each, and wrong ones."""

import uuid

# Members that the models do not require and the services do (the API references of the operations).
NEEDED = {
    "RunInstances": ["ImageId", "InstanceType"],
    "CreateLaunchTemplateVersion": ["LaunchTemplateName", "SourceVersion"],
    "DeleteLaunchTemplate": ["LaunchTemplateName"],
    "DeleteLaunchTemplateVersions": ["LaunchTemplateName"],
    "DescribeLaunchTemplateVersions": ["LaunchTemplateName"],
    "ModifyLaunchTemplate": ["LaunchTemplateName", "DefaultVersion"],
    "DeleteSecurityGroup": ["GroupId"],
    "CreateAutoScalingGroup": ["LaunchTemplate", "AvailabilityZones"],
    "CompleteLifecycleAction": ["InstanceId"],
    "RecordLifecycleActionHeartbeat": ["InstanceId"],
    "PutLifecycleHook": ["LifecycleTransition"],
    "AttachInstances": ["InstanceIds"],
    "DetachInstances": ["InstanceIds"],
    "EnterStandby": ["InstanceIds"],
    "ExitStandby": ["InstanceIds"],
    "LaunchInstances": ["AvailabilityZones"],
    "SendCommand": ["InstanceIds", "Parameters"],
    "PutParameter": ["Type"],
    "PutSecretValue": ["SecretString"],
    "TerminateInstanceInAutoScalingGroup": ["InstanceId"],
    "CreateLaunchTemplate": ["LaunchTemplateData"],
    "PutObject": ["Body"],
    "UploadPart": ["Body"],
    "CreateBucket": ["CreateBucketConfiguration"],
    "CompleteMultipartUpload": ["MultipartUpload"],
}
DEEPEST = 5


def members(shape):
    return shape.members if shape is not None else {}


class Maker:
    """Makes inputs; `known` gives values for names of members, in the operation that they are for."""

    def __init__(self, known):
        self.known = known

    def value(self, operation, name, shape, depth=0):
        """A valid value of a shape. A structure has all its members, as deep as is sensible."""
        found = fitting(self.known(operation, name), shape)
        if found is not None:
            return found
        kind = shape.type_name
        if kind == "structure":
            return {
                key: self.value(operation, key, member, depth + 1)
                for key, member in shape.members.items()
                if depth < DEEPEST or key in shape.required_members
            }
        if kind == "list":
            return [self.value(operation, name, shape.member, depth + 1)]
        if kind == "map":
            return {"key": self.value(operation, name, shape.value, depth + 1)}
        return scalar(name, shape)

    def smallest(self, operation, shape, name):
        """Only what is required, all the way down."""
        needed = set(getattr(shape, "required_members", ()))
        if name == operation:
            needed |= set(NEEDED.get(operation, ()))
        return {
            key: self.small(operation, key, member)
            for key, member in members(shape).items()
            if key in needed
        }

    def small(self, operation, name, shape):
        found = fitting(self.known(operation, name), shape)
        if found is not None:
            return found
        if shape.type_name == "structure":
            return self.smallest(operation, shape, name)
        if shape.type_name == "list":
            return [self.small(operation, name, shape.member)]
        if shape.type_name == "map":
            return {"key": self.small(operation, name, shape.value)}
        return scalar(name, shape)


def fitting(found, shape):
    """A known value as a shape takes it; None if the same name means something else there."""
    kind = shape.type_name
    if kind == "list" and found is not None and not isinstance(found, list):
        found = [found]
    if kind == "structure":
        return found if isinstance(found, dict) and set(found) <= set(shape.members) else None
    if kind == "map":
        return found if isinstance(found, dict) else None
    if kind == "list":
        return found if found and fitting(found[0], shape.member) is not None else None
    return None if isinstance(found, (dict, list)) else found


def scalar(name, shape):
    kind, rules = shape.type_name, shape.metadata
    if kind == "boolean":
        return True
    if kind in ("integer", "long", "float", "double"):
        lowest, highest = rules.get("min", 1), rules.get("max")
        value = max(lowest, 1)
        return value if highest is None else min(value, highest)
    if kind == "timestamp":
        return "2026-01-01T00:00:00Z"
    if kind == "blob":
        return b"Y29uZm9ybWFuY2U="
    if rules.get("enum"):
        return rules["enum"][0]
    text = f"c{uuid.uuid4().hex[:15]}"
    text = text.ljust(rules.get("min", 0), "0")
    return text[: rules["max"]] if "max" in rules else text


def wrong_values(shape, as_json):
    """Values that the model itself forbids, with what is wrong with them. A query has no types: clients make a boolean of
    whatever they are given."""
    kind, rules = shape.type_name, shape.metadata
    if kind in ("integer", "long"):
        if "min" in rules:
            yield "below the minimum", rules["min"] - 1
        if "max" in rules:
            yield "above the maximum", rules["max"] + 1
        yield "no number", "many"
    elif kind == "boolean" and as_json:
        yield "no boolean", "perhaps"
    elif kind == "string":
        if rules.get("enum"):
            yield "not in the enumeration", "no-such-value"
        if rules.get("min", 0) > 0:
            yield "too short", ""
        if rules.get("max", 1 << 20) < 100_000:
            yield "too long", "x" * (rules["max"] + 1)
