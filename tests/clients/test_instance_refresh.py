"""Instance refreshes, asked by boto3 and held against AWS's own model."""

import unittest

from groups import GroupCase
from wire import client

ACTIVE = ("Pending", "InProgress", "Baking", "Cancelling", "RollbackInProgress")
FIRST = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200, "InstanceWarmup": 0, "SkipMatching": True}


class Refreshes(GroupCase):
    def create(self, **more):
        asked = super().create(**more)
        self.ec2.create_launch_template_version(
            LaunchTemplateName=self.name, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.large"}
        )
        self.desired = {"LaunchTemplate": {**self.template, "Version": "2"}}
        self.serve(asked["DesiredCapacity"])
        return asked

    def start(self, **preferences):
        return self.scaling.start_instance_refresh(
            **self.named, DesiredConfiguration=self.desired, Preferences={**FIRST, **preferences}
        )["InstanceRefreshId"]

    def refreshes(self, **more):
        return self.scaling.describe_instance_refreshes(**self.named, **more)["InstanceRefreshes"]

    def over(self, status):
        self.until(lambda: self.refreshes()[0]["Status"] not in ACTIVE)
        newest = self.refreshes()[0]
        self.assertEqual(newest["Status"], status, newest)
        return newest

    def versions(self):
        return sorted(instance["LaunchTemplate"]["Version"] for instance in self.group()["Instances"])

    def protect(self, ids, on=True):
        self.scaling.set_instance_protection(**self.named, InstanceIds=ids, ProtectedFromScaleIn=on)

    def test_a_refresh_replaces_every_instance_and_then_changes_the_group(self):
        self.create(DesiredCapacity=2, MaxSize=2)
        before = self.serve(2)
        refresh = self.start()
        done = self.over("Successful")
        self.assertEqual((done["InstanceRefreshId"], done["AutoScalingGroupName"]), (refresh, self.name))
        self.assertEqual((done["PercentageComplete"], done["InstancesToUpdate"]), (100, 0))
        self.assertLessEqual(done["StartTime"], done["EndTime"])
        self.assertEqual(done["Strategy"], "Rolling")
        self.assertEqual(done["DesiredConfiguration"]["LaunchTemplate"]["Version"], "2")
        self.assertEqual(
            done["Preferences"],
            {
                **FIRST,
                "AutoRollback": False,
                "BakeTime": 0,
                "ScaleInProtectedInstances": "Wait",
                "StandbyInstances": "Wait",
            },
        )
        self.assertEqual(self.group()["LaunchTemplate"]["Version"], "2")
        self.until(lambda: self.versions() == ["2", "2"])
        self.assertFalse(set(before) & set(self.serve(2)))
        activities = self.scaling.describe_scaling_activities(**self.named)["Activities"]
        causes = [activity["Cause"] for activity in activities]
        ended = [c for c in causes if "was taken out of service in response to an instance refresh." in c]
        self.assertEqual(len(ended), 2, causes)
        self.assertEqual(sum("was launched in response to an instance refresh" in c for c in causes), 2, causes)

    def test_what_matches_is_skipped_or_not(self):
        self.create(DesiredCapacity=1)
        [first] = self.serve(1)
        self.scaling.start_instance_refresh(**self.named, Preferences={"SkipMatching": True})
        done = self.over("Successful")
        self.assertNotIn("DesiredConfiguration", done)
        self.assertEqual(done["Preferences"]["MinHealthyPercentage"], 90)
        self.assertEqual(self.serve(1), [first])
        self.scaling.start_instance_refresh(**self.named, Preferences={"InstanceWarmup": 0})
        self.over("Successful")
        self.until(lambda: self.states() == ["InService"] and self.serve(1) != [first])
        self.assertEqual(self.versions(), ["1"])

    def test_protected_instances_are_waited_for_ignored_or_replaced(self):
        self.create(DesiredCapacity=2)
        [kept, _] = self.serve(2)
        self.protect([kept])
        self.start(ScaleInProtectedInstances="Ignore")
        self.over("Successful")
        self.until(lambda: self.versions() == ["1", "2"])
        self.start(ScaleInProtectedInstances="Wait")
        self.until(lambda: "protected from scale in" in self.refreshes()[0].get("StatusReason", ""))
        waiting = self.refreshes()[0]
        self.assertEqual((waiting["PercentageComplete"], waiting["InstancesToUpdate"]), (50, 1))
        self.assertIn(kept, [instance["InstanceId"] for instance in self.group()["Instances"]])
        self.protect([kept], on=False)
        self.over("Successful")
        self.until(lambda: self.versions() == ["2", "2"])
        ids = self.serve(2)
        self.protect(ids)
        self.start(ScaleInProtectedInstances="Refresh", SkipMatching=False)
        self.over("Successful")
        self.until(lambda: len(self.group()["Instances"]) == 2)
        self.assertFalse(set(ids) & set(self.serve(2)))

    def test_instances_in_standby_are_waited_for_or_terminated(self):
        self.create(DesiredCapacity=2)
        [aside, _] = self.serve(2)
        self.scaling.enter_standby(**self.named, InstanceIds=[aside], ShouldDecrementDesiredCapacity=True)
        self.start()
        self.until(lambda: "is in Standby" in self.refreshes()[0].get("StatusReason", ""))
        self.scaling.cancel_instance_refresh(**self.named)
        self.over("Cancelled")
        self.start(StandbyInstances="Ignore")
        self.over("Successful")
        self.assertEqual(self.versions(), ["1", "2"])
        self.start(StandbyInstances="Terminate")
        self.over("Successful")
        self.until(lambda: self.versions() == ["2"])

    def test_a_checkpoint_holds_it_up_and_one_is_rolled_back_or_cancelled(self):
        self.create(DesiredCapacity=2)
        points = {"CheckpointPercentages": [50, 100], "CheckpointDelay": 3600}
        refresh = self.start(**points)
        self.until(lambda: "checkpoint 50 percent" in self.refreshes()[0].get("StatusReason", ""))
        held = self.refreshes()[0]
        self.assertEqual((held["Status"], held["PercentageComplete"]), ("InProgress", 50))
        self.assertEqual({key: held["Preferences"][key] for key in points}, points)
        self.assertEqual(self.versions(), ["1", "2"])
        self.assertEqual(self.group()["LaunchTemplate"]["Version"], "1")
        self.refused("InstanceRefreshInProgress", self.start)
        error = self.refused(
            "ValidationError",
            self.scaling.update_auto_scaling_group,
            **self.named,
            LaunchTemplate=self.desired["LaunchTemplate"],
        )
        self.assertIn("An active instance refresh with a desired configuration exists.", error["Error"]["Message"])
        self.assertEqual(self.scaling.rollback_instance_refresh(**self.named)["InstanceRefreshId"], refresh)
        back = self.over("RollbackSuccessful")
        self.assertEqual((back["PercentageComplete"], back["InstancesToUpdate"]), (0, 2))
        details = back["RollbackDetails"]
        self.assertEqual((details["PercentageCompleteOnRollback"], details["InstancesToUpdateOnRollback"]), (50, 1))
        self.assertIn("user request", details["RollbackReason"])
        self.until(lambda: self.versions() == ["1", "1"])
        refresh = self.start(**points)
        self.until(lambda: self.versions() == ["1", "2"])
        self.assertEqual(self.scaling.cancel_instance_refresh(**self.named)["InstanceRefreshId"], refresh)
        cancelled = self.over("Cancelled")
        self.assertEqual(cancelled["StatusReason"], "Cancelled due to user request.")
        self.assertEqual(self.versions(), ["1", "2"])
        self.refused("ActiveInstanceRefreshNotFound", self.scaling.cancel_instance_refresh, **self.named)
        self.refused("ActiveInstanceRefreshNotFound", self.scaling.rollback_instance_refresh, **self.named)

    def test_it_bakes(self):
        self.create(DesiredCapacity=1)
        self.start(BakeTime=3600)
        self.until(lambda: self.refreshes()[0]["Status"] == "Baking")
        self.assertEqual(self.refreshes()[0]["PercentageComplete"], 100)
        self.scaling.cancel_instance_refresh(**self.named, WaitForTransitioningInstances=False)
        self.assertEqual(self.over("Cancelled")["Preferences"]["BakeTime"], 3600)

    def test_a_suspended_process_pauses_it(self):
        self.create(DesiredCapacity=1)
        self.scaling.suspend_processes(**self.named, ScalingProcesses=["InstanceRefresh"])
        self.start()
        [waiting] = self.refreshes()
        self.assertEqual(waiting["Status"], "Pending")
        self.assertNotIn("StartTime", waiting)
        self.scaling.resume_processes(**self.named)
        self.over("Successful")

    def test_what_cannot_be_rolled_back_is_refused(self):
        self.create(DesiredCapacity=1, LaunchTemplate={**self.template, "Version": "$Latest"})
        held = {"CheckpointPercentages": [50, 100], "ScaleInProtectedInstances": "Wait"}
        self.protect(self.serve(1))
        self.refused("ValidationError", self.start, AutoRollback=True)
        self.start(**held, SkipMatching=False)
        self.refused("IrreversibleInstanceRefresh", self.scaling.rollback_instance_refresh, **self.named)
        self.scaling.cancel_instance_refresh(**self.named)
        self.over("Cancelled")
        self.scaling.update_auto_scaling_group(**self.named, LaunchTemplate=self.template)
        self.scaling.start_instance_refresh(**self.named, Preferences={"InstanceWarmup": 0})
        self.refused("IrreversibleInstanceRefresh", self.scaling.rollback_instance_refresh, **self.named)
        self.scaling.cancel_instance_refresh(**self.named)

    def test_pages_and_ids(self):
        self.create(DesiredCapacity=0)
        ids = []
        for _ in range(3):
            ids.insert(0, self.start())
            self.over("Successful")
        self.assertEqual([one["InstanceRefreshId"] for one in self.refreshes()], ids)
        [one] = self.refreshes(InstanceRefreshIds=[ids[1]])
        self.assertEqual(one["InstanceRefreshId"], ids[1])
        page = self.scaling.describe_instance_refreshes(**self.named, MaxRecords=2)
        rest = self.scaling.describe_instance_refreshes(**self.named, MaxRecords=2, NextToken=page["NextToken"])
        found = [one["InstanceRefreshId"] for one in page["InstanceRefreshes"] + rest["InstanceRefreshes"]]
        self.assertEqual((found, "NextToken" in rest), (ids, False))
        self.refused(
            "InvalidNextToken", self.scaling.describe_instance_refreshes, **self.named, NextToken="no token at all"
        )

    def test_refusals(self):
        self.create(DesiredCapacity=1)
        for odd in (
            {"MaxHealthyPercentage": 201},
            {"MaxHealthyPercentage": 200, "MinHealthyPercentage": 99},
            {"CheckpointPercentages": [50, 50]},
            {"CheckpointPercentages": [60, 50]},
            {"CheckpointPercentages": [50, 100], "CheckpointDelay": 172801},
            {"CheckpointDelay": 60},
            {"BakeTime": 172801},
            {"ScaleInProtectedInstances": "Terminate"},
            {"StandbyInstances": "Refresh"},
            {"AlarmSpecification": {"Alarms": ["cpu"]}},
        ):
            with self.subTest(odd):
                self.refused("ValidationError", self.loose().start_instance_refresh, **self.named, Preferences={**FIRST, **odd})
        only_max = {"MaxHealthyPercentage": 110}
        for odd in (
            {"Preferences": only_max},
            {"Preferences": {"AutoRollback": True}},
            {"Strategy": "ReplaceRootVolume"},
            {"Strategy": "Blue"},
            {"DesiredConfiguration": {"LaunchTemplate": {**self.template, "Version": "9"}}},
            {
                "DesiredConfiguration": {
                    "MixedInstancesPolicy": {"LaunchTemplate": {"LaunchTemplateSpecification": self.template}}
                }
            },
            {"AutoScalingGroupName": "nobody"},
        ):
            with self.subTest(odd):
                asked = {**self.named, **odd}
                self.refused("ValidationError", self.loose().start_instance_refresh, **asked)
        self.assertEqual(self.refreshes(), [])
        self.refused("ValidationError", self.scaling.describe_instance_refreshes, AutoScalingGroupName="nobody")

    def loose(self):
        """A client that does not check what it sends, so that the cloud must."""
        return client("autoscaling", validate=False)


if __name__ == "__main__":
    unittest.main()
