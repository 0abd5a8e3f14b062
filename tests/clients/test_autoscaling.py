"""Auto Scaling groups, asked by boto3 and held against AWS's own model."""

import unittest

from groups import GroupCase


class Groups(GroupCase):
    def test_a_group_launches_what_is_desired_with_its_tags(self):
        tags = [
            {"Key": "Team", "Value": "ci", "PropagateAtLaunch": True},
            {"Key": "Owner", "Value": "us", "PropagateAtLaunch": False},
        ]
        self.create(Tags=tags, DefaultInstanceWarmup=30, TerminationPolicies=["OldestInstance"])
        ids = self.serve(2)
        group = self.group()
        self.assertEqual(group["LaunchTemplate"], {**self.template, "LaunchTemplateName": self.name})
        self.assertEqual((group["DefaultInstanceWarmup"], group["TerminationPolicies"]), (30, ["OldestInstance"]))
        self.assertEqual({tag["Key"]: tag["PropagateAtLaunch"] for tag in group["Tags"]}, {"Team": True, "Owner": False})
        [reservation, *_] = self.ec2.describe_instances(InstanceIds=ids)["Reservations"]
        found = {tag["Key"]: tag["Value"] for tag in reservation["Instances"][0]["Tags"]}
        self.assertEqual(found["aws:autoscaling:groupName"], self.name)
        self.assertEqual(found["aws:ec2launchtemplate:version"], "1")
        self.assertEqual((found["Team"], "Owner" in found), ("ci", False))
        activities = self.scaling.describe_scaling_activities(**self.named)["Activities"]
        self.assertEqual([(a["StatusCode"], a["Progress"]) for a in activities], [("Successful", 100)] * 2)
        self.assertIn("a user request created an AutoScalingGroup", activities[0]["Cause"])
        self.assertTrue(activities[0]["Description"].startswith("Launching a new EC2 instance: i-"))

    def test_scale_in_spares_what_is_protected(self):
        self.create()
        [kept, other] = self.serve(2)
        self.scaling.set_instance_protection(**self.named, InstanceIds=[kept], ProtectedFromScaleIn=True)
        self.scaling.set_desired_capacity(**self.named, DesiredCapacity=0)
        self.until(lambda: [i["InstanceId"] for i in self.group()["Instances"]] == [kept])
        self.assertEqual(self.group()["DesiredCapacity"], 0)
        [detail] = self.scaling.describe_auto_scaling_instances(InstanceIds=[kept, other])["AutoScalingInstances"]
        self.assertEqual((detail["HealthStatus"], detail["ProtectedFromScaleIn"]), ("HEALTHY", True))
        self.scaling.set_instance_protection(**self.named, InstanceIds=[kept], ProtectedFromScaleIn=False)
        self.until(lambda: not self.group()["Instances"])

    def test_terminating_one_with_and_without_a_successor(self):
        self.create(MinSize=1)
        [first, second] = self.serve(2)
        activity = self.scaling.terminate_instance_in_auto_scaling_group(
            InstanceId=first, ShouldDecrementDesiredCapacity=True
        )["Activity"]
        self.assertIn("shrinking the capacity from 2 to 1", activity["Cause"])
        self.assertEqual(self.serve(1), [second])
        self.refused(
            "ValidationError",
            self.scaling.terminate_instance_in_auto_scaling_group,
            InstanceId=second,
            ShouldDecrementDesiredCapacity=True,
        )
        self.scaling.terminate_instance_in_auto_scaling_group(
            InstanceId=second, ShouldDecrementDesiredCapacity=False
        )
        self.until(lambda: self.states() == ["InService"] and self.serve(1) != [second])
        self.refused(
            "ValidationError",
            self.scaling.terminate_instance_in_auto_scaling_group,
            InstanceId=second,
            ShouldDecrementDesiredCapacity=False,
        )

    def test_launch_instances_is_idempotent_and_stays_below_the_maximum(self):
        self.create(DesiredCapacity=1)
        [first] = self.serve(1)
        asked = {**self.named, "RequestedCapacity": 2, "ClientToken": "token-1"}
        made = self.scaling.launch_instances(**asked)
        again = self.scaling.launch_instances(**asked)
        self.assertEqual(made["Instances"], again["Instances"])
        [collection] = made["Instances"]
        self.assertEqual(sorted(self.serve(3)), sorted([first, *collection["InstanceIds"]]))
        self.assertEqual(self.group()["DesiredCapacity"], 3)
        self.refused("IdempotentParameterMismatch", self.scaling.launch_instances, **{**asked, "RequestedCapacity": 1})
        self.refused("ValidationError", self.scaling.launch_instances, **{**asked, "ClientToken": "token-2"})

    def test_hooks_hold_instances_up(self):
        hooks = [
            {"LifecycleHookName": "in", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"},
            {
                "LifecycleHookName": "out",
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
                "DefaultResult": "CONTINUE",
                "HeartbeatTimeout": 60,
            },
        ]
        self.create(DesiredCapacity=1, LifecycleHookSpecificationList=hooks)
        self.until(lambda: self.states() == ["Pending:Wait"])
        found = self.scaling.describe_lifecycle_hooks(**self.named)["LifecycleHooks"]
        self.assertEqual(
            [(h["LifecycleHookName"], h["HeartbeatTimeout"], h["GlobalTimeout"], h["DefaultResult"]) for h in found],
            [("in", 3600, 172800, "ABANDON"), ("out", 60, 6000, "CONTINUE")],
        )
        waiting = self.group()["Instances"][0]["InstanceId"]
        action = {**self.named, "LifecycleHookName": "in", "InstanceId": waiting}
        self.scaling.record_lifecycle_action_heartbeat(**action)
        self.scaling.complete_lifecycle_action(**action, LifecycleActionResult="CONTINUE")
        self.assertEqual(self.serve(1), [waiting])
        self.refused(
            "ValidationError", self.scaling.complete_lifecycle_action, **action, LifecycleActionResult="CONTINUE"
        )
        self.scaling.set_desired_capacity(**self.named, DesiredCapacity=0)
        self.until(lambda: self.states() == ["Terminating:Wait"])
        self.scaling.complete_lifecycle_action(
            **self.named, LifecycleHookName="out", InstanceId=waiting, LifecycleActionResult="CONTINUE"
        )
        self.until(lambda: not self.group()["Instances"])

    def test_suspended_processes_do_nothing(self):
        self.create(DesiredCapacity=0)
        self.scaling.suspend_processes(**self.named, ScalingProcesses=["Launch"])
        [process] = self.group()["SuspendedProcesses"]
        self.assertEqual(process["ProcessName"], "Launch")
        self.scaling.set_desired_capacity(**self.named, DesiredCapacity=1)
        self.assertEqual(self.group()["Instances"], [])
        self.scaling.resume_processes(**self.named)
        self.serve(1)
        names = self.scaling.describe_scaling_process_types()["Processes"]
        self.assertIn("InstanceRefresh", [process["ProcessName"] for process in names])

    def test_what_is_unhealthy_is_replaced(self):
        self.create(DesiredCapacity=1)
        [first] = self.serve(1)
        self.scaling.set_instance_health(InstanceId=first, HealthStatus="Unhealthy")
        self.until(lambda: self.states() == ["InService"] and self.serve(1) != [first])
        [second] = self.serve(1)
        self.ec2.terminate_instances(InstanceIds=[second])
        self.until(lambda: self.states() == ["InService"] and self.serve(1) != [second])

    def test_instances_move_in_and_out(self):
        self.create(DesiredCapacity=1)
        [first] = self.serve(1)
        self.scaling.detach_instances(**self.named, InstanceIds=[first], ShouldDecrementDesiredCapacity=True)
        self.assertEqual((self.group()["Instances"], self.group()["DesiredCapacity"]), ([], 0))
        self.scaling.attach_instances(**self.named, InstanceIds=[first])
        self.assertEqual((self.serve(1), self.group()["DesiredCapacity"]), ([first], 1))
        self.scaling.enter_standby(**self.named, InstanceIds=[first], ShouldDecrementDesiredCapacity=True)
        self.assertEqual(self.states(), ["Standby"])
        self.scaling.exit_standby(**self.named, InstanceIds=[first])
        self.assertEqual(self.serve(1), [first])

    def test_tags_and_filters(self):
        self.create(DesiredCapacity=0)
        tag = {
            "ResourceId": self.name,
            "ResourceType": "auto-scaling-group",
            "Key": "Stage",
            "Value": self.name,
            "PropagateAtLaunch": False,
        }
        self.scaling.create_or_update_tags(Tags=[tag])
        filters = [{"Name": "auto-scaling-group", "Values": [self.name]}]
        self.assertEqual(self.scaling.describe_tags(Filters=filters)["Tags"], [tag])
        found = self.scaling.describe_auto_scaling_groups(Filters=[{"Name": "tag:Stage", "Values": [self.name]}])
        self.assertEqual([group["AutoScalingGroupName"] for group in found["AutoScalingGroups"]], [self.name])
        self.scaling.delete_tags(Tags=[tag])
        self.assertEqual(self.scaling.describe_tags(Filters=filters)["Tags"], [])

    def test_refusals(self):
        asked = self.create(DesiredCapacity=1)
        self.serve(1)
        self.refused("AlreadyExists", self.scaling.create_auto_scaling_group, **asked)
        other = {**asked, "AutoScalingGroupName": self.name + "-2"}
        for odd in (
            {"MaxSize": 0},
            {"DesiredCapacity": 9},
            {"AvailabilityZones": ["mars-1a"]},
            {"HealthCheckType": "ELB"},
            {"CapacityRebalance": True},
            {"LaunchTemplate": {**self.template, "Version": "9"}},
            {"TerminationPolicies": ["Random"]},
        ):
            with self.subTest(odd):
                self.refused("ValidationError", self.scaling.create_auto_scaling_group, **{**other, **odd})
        self.refused("ResourceInUse", self.scaling.delete_auto_scaling_group, **self.named)
        self.refused("ValidationError", self.scaling.set_desired_capacity, **self.named, DesiredCapacity=5)
        nobody = {"AutoScalingGroupName": "nobody"}
        self.refused("ValidationError", self.scaling.set_desired_capacity, **nobody, DesiredCapacity=1)
        self.refused("ValidationError", self.scaling.update_auto_scaling_group, **nobody, MinSize=1)
        self.assertEqual(self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=["nobody"])["AutoScalingGroups"], [])
        self.refused("InvalidAction", self.scaling.describe_policies)


if __name__ == "__main__":
    unittest.main()
